// What the bench's traffic programs share. They are measuring instruments: errors end them.
#ifndef HEADGATE_BENCH_TRAFFIC_COMMON_H_
#define HEADGATE_BENCH_TRAFFIC_COMMON_H_

#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

// Where things lie in a frame: Ethernet, IPv4 without options, UDP.
constexpr size_t kIp = 14;
constexpr size_t kUdp = kIp + 20;
// The payload begins with the frame's number N and ~N (big-endian), then the low 32 bits T of the
// CLOCK_MONOTONIC nanosecond at which it was sent, and ~T (as the machine has them). The sum of a
// word and its complement is the same for all words, so a flow's frames have one UDP checksum.
constexpr size_t kNumber = kUdp + 8;
constexpr size_t kStamp = kNumber + 8;
constexpr size_t kFrameBytesMin = 60;
constexpr size_t kFrameBytesMax = 1514;
static_assert(kStamp + 8 <= kFrameBytesMin, "the smallest frame has room for both");

[[noreturn]] inline void Die(const char* what) {
  fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
  exit(1);
}

inline uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

inline double Now() { return static_cast<double>(NowNs()) / 1e9; }

inline void Sleep(double seconds) {
  timespec time{};
  time.tv_sec = static_cast<time_t>(seconds);
  time.tv_nsec = static_cast<long>((seconds - static_cast<double>(time.tv_sec)) * 1e9);
  nanosleep(&time, nullptr);
}

// Seconds that all CPUs of the machine have been busy since it started.
inline double Busy() {
  FILE* file = fopen("/proc/stat", "r");
  unsigned long long user, nice, system, idle, wait, irq, softirq, steal;
  if (file == nullptr || fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice,
                                &system, &idle, &wait, &irq, &softirq, &steal) != 8) {
    Die("/proc/stat");
  }
  fclose(file);
  return static_cast<double>(user + nice + system + irq + softirq) /
         static_cast<double>(sysconf(_SC_CLK_TCK));
}

// Seconds of CPU that this process has used.
inline double Used() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

inline void PinTo(int cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(static_cast<size_t>(cpu), &cpus);
  if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) Die("sched_setaffinity");
}

inline int IndexOf(const char* interface) {
  const unsigned index = if_nametoindex(interface);
  if (index == 0) Die(interface);
  return static_cast<int>(index);
}

inline void Put16(uint8_t* at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}

inline void Put32(uint8_t* at, uint32_t value) {
  Put16(at, value >> 16);
  Put16(at + 2, value);
}

inline uint32_t Get16(const uint8_t* at) { return static_cast<uint32_t>(at[0] << 8 | at[1]); }
inline uint32_t Get32(const uint8_t* at) { return Get16(at) << 16 | Get16(at + 2); }

inline uint32_t Sum(const uint8_t* at, size_t bytes, uint32_t sum) {
  for (size_t i = 0; i < bytes; i += 2) sum += Get16(at + i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

// The sum over pseudo header, header and data of an UDP datagram of even length (RFC 768).
inline uint32_t SumUdp(const uint8_t* frame) {
  const uint32_t bytes = Get16(frame + kUdp + 4);
  return Sum(frame + kUdp, bytes, Sum(frame + kIp + 12, 8, 17 + bytes));
}

#endif  // HEADGATE_BENCH_TRAFFIC_COMMON_H_

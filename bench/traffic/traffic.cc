// A bounded generator of small UDP frames, and a sink that looks at every one of them.
// bench/traffic.ts builds and runs it, inside the lab's namespaces only.
//
//   traffic generate INTERFACE CPU RATE SECONDS COUNT FLOWS SOURCE_MAC SOURCE_ADDRESS TARGET...
//     UDP frames of 60 bytes, FLOWS source ports from 1024 on in turn; flow i goes to TARGET i modulo
//     their number, each MAC/ADDRESS/PORT. RATE: frames a second, paced in bursts of at most 32;
//     0: as fast as it goes. It ends after SECONDS, or COUNT frames when COUNT is not 0. Prints
//     {offered, refused, seconds, cpuSeconds, busySeconds}: refused are those of the offered that the
//     sending side's kernel dropped at once (the next hop's queue was full); cpuSeconds is its own CPU
//     time, with what the kernel does in its context; busySeconds is the busy time of the whole machine
//     meanwhile (/proc/stat: all but idle and iowait, all CPUs).
//   traffic receive INTERFACE PORT
//     Counts the frames of `generate` to UDP port PORT until it gets SIGTERM (or 60 s are over);
//     prints "ready" when it listens, then {frames, distinct, flows, badChecksums, otherHost}.
//
// A frame carries its number N and ~N: their sum is the same for all N, so that a flow's frames have
// one UDP checksum. It is a measuring instrument: errors end it.
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <vector>

namespace {

constexpr size_t kFrameBytes = 60;
constexpr size_t kVnet = 10;
constexpr size_t kBurst = 32;
constexpr size_t kSlotBytes = 128;
constexpr size_t kSlots = 1024;
// Where the kernel looks for the data of a slot of TPACKET_V2 (tpacket_snd).
constexpr size_t kSlotData = TPACKET2_HDRLEN - sizeof(sockaddr_ll);
static_assert(kSlotData + kVnet + kFrameBytes <= kSlotBytes, "a frame fits its slot");
constexpr size_t kIp = 14;
constexpr size_t kUdp = kIp + 20;
constexpr size_t kNumber = kUdp + 8;
constexpr uint32_t kNumbersMax = 1 << 28;

[[noreturn]] void Die(const char* what) {
  fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
  exit(1);
}

double Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

void Sleep(double seconds) {
  timespec time{};
  time.tv_sec = static_cast<time_t>(seconds);
  time.tv_nsec = static_cast<long>((seconds - static_cast<double>(time.tv_sec)) * 1e9);
  nanosleep(&time, nullptr);
}

// Seconds that all CPUs of the machine have been busy since it started.
double Busy() {
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
double Used() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

void Set(int fd, int option, int value, const char* name) {
  if (setsockopt(fd, SOL_PACKET, option, &value, sizeof value) != 0) Die(name);
}

void Bind(int fd, const char* interface, int protocol) {
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(static_cast<uint16_t>(protocol));
  address.sll_ifindex = static_cast<int>(if_nametoindex(interface));
  if (address.sll_ifindex == 0) Die(interface);
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Die("bind");
}

void Put16(uint8_t* at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}

void Put32(uint8_t* at, uint32_t value) {
  Put16(at, value >> 16);
  Put16(at + 2, value);
}

uint32_t Get16(const uint8_t* at) { return static_cast<uint32_t>(at[0] << 8 | at[1]); }
uint32_t Get32(const uint8_t* at) { return Get16(at) << 16 | Get16(at + 2); }

uint32_t Sum(const uint8_t* at, size_t bytes, uint32_t sum) {
  for (size_t i = 0; i < bytes; i += 2) sum += Get16(at + i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

// The sum over pseudo header, header and data of an UDP datagram (RFC 768).
uint32_t SumUdp(const uint8_t* frame) {
  const uint32_t bytes = Get16(frame + kUdp + 4);
  return Sum(frame + kUdp, bytes, Sum(frame + kIp + 12, 8, IPPROTO_UDP + bytes));
}

bool ReadMac(const char* text, uint8_t* out) {
  return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", out, out + 1, out + 2, out + 3, out + 4,
                out + 5) == 6;
}

struct Target {
  uint8_t mac[6];
  uint8_t address[4];
  uint32_t port;
};

Target ReadTarget(char* text) {
  Target target{};
  char* address = strchr(text, '/');
  char* port = address == nullptr ? nullptr : strchr(address + 1, '/');
  if (port == nullptr) Die("a target is MAC/ADDRESS/PORT");
  *address = 0;
  *port = 0;
  if (!ReadMac(text, target.mac) || inet_pton(AF_INET, address + 1, target.address) != 1) Die(text);
  target.port = static_cast<uint32_t>(atoi(port + 1));
  return target;
}

void Number(uint8_t* frame, uint32_t number) {
  Put32(frame + kNumber, number);
  Put32(frame + kNumber + 4, ~number);
}

int Generate(int count, char** arguments) {
  const char* interface = arguments[0];
  const double rate = atof(arguments[2]);
  const double seconds = atof(arguments[3]);
  const uint64_t frames_max = strtoull(arguments[4], nullptr, 10);
  const size_t flows = strtoul(arguments[5], nullptr, 10);
  uint8_t source_mac[6];
  uint8_t source[4];
  if (!ReadMac(arguments[6], source_mac) || inet_pton(AF_INET, arguments[7], source) != 1) Die("source");
  if (flows == 0 || flows > 60000 || seconds <= 0 || seconds > 60) Die("flows or seconds");
  std::vector<Target> targets;
  for (int i = 8; i < count; i += 1) targets.push_back(ReadTarget(arguments[i]));

  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(static_cast<size_t>(atoi(arguments[1])), &cpus);
  if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) Die("sched_setaffinity");
  prctl(PR_SET_TIMERSLACK, 1000);

  std::vector<uint8_t> frames(flows * kFrameBytes);
  for (size_t flow = 0; flow < flows; flow += 1) {
    uint8_t* at = frames.data() + flow * kFrameBytes;
    const Target& target = targets[flow % targets.size()];
    memcpy(at, target.mac, 6);
    memcpy(at + 6, source_mac, 6);
    Put16(at + 12, ETH_P_IP);
    at[kIp] = 0x45;
    Put16(at + kIp + 2, kFrameBytes - kIp);
    at[kIp + 8] = 64;
    at[kIp + 9] = IPPROTO_UDP;
    memcpy(at + kIp + 12, source, 4);
    memcpy(at + kIp + 16, target.address, 4);
    Put16(at + kIp + 10, ~Sum(at + kIp, 20, 0));
    Put16(at + kUdp, static_cast<uint32_t>(1024 + flow));
    Put16(at + kUdp + 2, target.port);
    Put16(at + kUdp + 4, kFrameBytes - kUdp);
    Number(at, 0);
    const uint32_t sum = ~SumUdp(at) & 0xffff;
    Put16(at + kUdp + 6, sum == 0 ? 0xffff : sum);
  }

  const int fd = socket(AF_PACKET, SOCK_RAW, 0);
  if (fd < 0) Die("socket");
  Set(fd, PACKET_VERSION, TPACKET_V2, "PACKET_VERSION");
  Set(fd, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR");
  Set(fd, PACKET_QDISC_BYPASS, 1, "PACKET_QDISC_BYPASS");
  tpacket_req ring{};
  ring.tp_block_size = kSlots * kSlotBytes;
  ring.tp_block_nr = 1;
  ring.tp_frame_size = kSlotBytes;
  ring.tp_frame_nr = kSlots;
  if (setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &ring, sizeof ring) != 0) Die("PACKET_TX_RING");
  void* memory = mmap(nullptr, ring.tp_block_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (memory == MAP_FAILED) Die("mmap");
  auto* slots = static_cast<uint8_t*>(memory);
  Bind(fd, interface, 0);

  uint64_t put = 0;       // frames in the ring since the start
  uint64_t refused = 0;
  size_t flow = 0;
  const double used = Used();
  const double busy = Busy();
  const double start = Now();
  double now = start;
  while (now - start < seconds && (frames_max == 0 || put < frames_max)) {
    size_t burst = kBurst;
    if (frames_max != 0 && frames_max - put < burst) burst = static_cast<size_t>(frames_max - put);
    if (rate > 0) {
      const double due = (now - start) * rate - static_cast<double>(put + refused);
      if (due < static_cast<double>(burst)) {
        const double wait = (static_cast<double>(burst) - due) / rate;
        // A frame's time is short against a timer's: what is due within 20 us is waited for awake.
        if (wait > 2e-5) Sleep(wait - 1e-5);
        now = Now();
        continue;
      }
    }
    size_t filled = 0;
    for (; filled < burst; filled += 1) {
      auto* slot = reinterpret_cast<tpacket2_hdr*>(slots + put % kSlots * kSlotBytes);
      if (__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) != TP_STATUS_AVAILABLE) break;
      uint8_t* data = reinterpret_cast<uint8_t*>(slot) + kSlotData;
      // hdr_len of the whole frame: the kernel copies it instead of referring to the ring's page.
      const uint8_t vnet[kVnet] = {0, 0, kFrameBytes, 0, 0, 0, 0, 0, 0, 0};
      memcpy(data, vnet, kVnet);
      memcpy(data + kVnet, frames.data() + flow * kFrameBytes, kFrameBytes);
      Number(data + kVnet, static_cast<uint32_t>(put));
      slot->tp_len = kVnet + kFrameBytes;
      __atomic_store_n(&slot->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
      put += 1;
      flow = flow + 1 == flows ? 0 : flow + 1;
    }
    // A frame that the next hop's queue refuses ends the call with ENOBUFS, and its slot is sent
    // again by the next one: one more frame offered, and lost.
    while (send(fd, nullptr, 0, 0) < 0) {
      if (errno == ENOBUFS) {
        refused += 1;
      } else if (errno != EAGAIN && errno != EINTR) {
        Die("send");
      }
      if (Now() - start >= seconds) break;
    }
    now = Now();
  }
  // The last slots of the ring that were not sent have not been offered.
  uint64_t waiting = 0;
  for (size_t i = 0; i < kSlots; i += 1) {
    auto* slot = reinterpret_cast<tpacket2_hdr*>(slots + i * kSlotBytes);
    if (__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) == TP_STATUS_SEND_REQUEST) waiting += 1;
  }
  printf("{\"offered\":%llu,\"refused\":%llu,\"seconds\":%f,\"cpuSeconds\":%f,\"busySeconds\":%f}\n",
         static_cast<unsigned long long>(put - waiting + refused),
         static_cast<unsigned long long>(refused), Now() - start, Used() - used, Busy() - busy);
  return 0;
}

volatile sig_atomic_t ended = 0;
void End(int) { ended = 1; }

int Receive(const char* interface, uint32_t port) {
  struct sigaction action {};
  action.sa_handler = End;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
  if (fd < 0) Die("socket");
  const int bytes = 64 << 20;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0) Die("SO_RCVBUFFORCE");
  Set(fd, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING");
  Bind(fd, interface, ETH_P_ALL);
  printf("ready\n");
  fflush(stdout);
  std::vector<uint64_t> seen(kNumbersMax / 64);
  std::vector<bool> flows(65536);
  uint64_t frames = 0, distinct = 0, flow_count = 0, bad = 0, other = 0;
  const double end = Now() + 60;
  pollfd waiting = {fd, POLLIN, 0};
  bool drained = false;
  // After the signal what is already in the socket is still counted.
  while (!drained) {
    if (ended != 0 || Now() > end) drained = true;
    while (true) {
      uint8_t frame[2048];
      sockaddr_ll from{};
      socklen_t from_bytes = sizeof from;
      const ssize_t got = recvfrom(fd, frame, sizeof frame, 0, reinterpret_cast<sockaddr*>(&from), &from_bytes);
      if (got < 0) break;
      if (got < static_cast<ssize_t>(kFrameBytes) || Get16(frame + 12) != ETH_P_IP ||
          frame[kIp] != 0x45 || frame[kIp + 9] != IPPROTO_UDP || Get16(frame + kUdp + 2) != port) {
        continue;
      }
      const uint32_t number = Get32(frame + kNumber);
      if (number != ~Get32(frame + kNumber + 4) || number >= kNumbersMax) continue;
      if (from.sll_pkttype == PACKET_OTHERHOST) {
        other += 1;
        continue;
      }
      frames += 1;
      if (Sum(frame + kIp, 20, 0) != 0xffff || SumUdp(frame) != 0xffff) bad += 1;
      const uint64_t bit = 1ULL << (number % 64);
      if ((seen[number / 64] & bit) == 0) distinct += 1;
      seen[number / 64] |= bit;
      const uint32_t source_port = Get16(frame + kUdp);
      if (!flows[source_port]) flow_count += 1;
      flows[source_port] = true;
    }
    if (!drained) poll(&waiting, 1, 20);
  }
  printf("{\"frames\":%llu,\"distinct\":%llu,\"flows\":%llu,\"badChecksums\":%llu,\"otherHost\":%llu}\n",
         static_cast<unsigned long long>(frames), static_cast<unsigned long long>(distinct),
         static_cast<unsigned long long>(flow_count), static_cast<unsigned long long>(bad),
         static_cast<unsigned long long>(other));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count >= 11 && strcmp(arguments[1], "generate") == 0) return Generate(count - 2, arguments + 2);
  if (count == 4 && strcmp(arguments[1], "receive") == 0) {
    return Receive(arguments[2], static_cast<uint32_t>(atoi(arguments[3])));
  }
  fprintf(stderr,
          "usage: traffic generate INTERFACE CPU RATE SECONDS COUNT FLOWS MAC ADDRESS TARGET...\n"
          "       traffic receive INTERFACE PORT\n");
  return 2;
}

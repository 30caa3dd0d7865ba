// Where the bench's frames end: a BPF program that counts them, and how long each was under way, in
// the softirq in which it arrives. So the sink costs every contender the same, wakes nobody, and
// takes its time stamp where the wire ends and not where a process is scheduled.
//
//   sink tc|xdp INTERFACE PORT
//     tc:  a TCX ingress program, on the frames that come out of a gateway.
//     xdp: an XDP program in native mode; with it the peer of the generator's interface is the end.
//     Frames of `traffic generate` to UDP port PORT are counted and dropped, all else passes. Prints
//     "ready", and for each SIGUSR2 one line
//       {"reading":N,"frames":N,"timed":N,"p50":NS,"p99":NS,"p999":NS,"max":NS}
//     with N counting the lines from 1, and latencies since the last SIGUSR1 (or the start) in
//     nanoseconds, in steps of 128; max is cut off at 16.7 ms. Ends with SIGTERM, or after 2 hours.
#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <signal.h>
#include <sys/mman.h>

#include <vector>

#include "../../addon/bpf.h"
#include "common.h"

namespace {

using headgate::Fd;
using headgate::bpf::Bpf;

// Newer than Debian 12's headers (include/uapi/linux/bpf.h).
constexpr int kTcxIngress = 46;
constexpr int kTcxPass = 0;
constexpr int kTcxDrop = 2;

// The map's one value: frames, then the histogram.
constexpr int32_t kBuckets = 1 << 17;
constexpr int kStepBits = 7;
constexpr size_t kHistogram = 8;
constexpr size_t kWords = kHistogram + kBuckets;

enum { R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 };

// Instructions, and jumps to one place: "not ours".
class Code {
 public:
  void Emit(int opcode, int dst, int src, int offset, int32_t value) {
    bpf_insn one{};
    one.code = static_cast<uint8_t>(opcode);
    one.dst_reg = static_cast<uint8_t>(dst) & 0xf;
    one.src_reg = static_cast<uint8_t>(src) & 0xf;
    one.off = static_cast<int16_t>(offset);
    one.imm = value;
    code_.push_back(one);
  }
  void Load(int size, int dst, int src, size_t offset) {
    Emit(BPF_LDX | size | BPF_MEM, dst, src, static_cast<int>(offset), 0);
  }
  void PassUnless(int reg, int32_t value) {
    jumps_.push_back(code_.size());
    Emit(BPF_JMP | BPF_JNE | BPF_K, reg, 0, 0, value);
  }
  void PassIfAbove(int reg, int other) {
    jumps_.push_back(code_.size());
    Emit(BPF_JMP | BPF_JGT | BPF_X, reg, other, 0, 0);
  }
  // dst = address of word `word` of the map's value
  void MapWord(int dst, int map, size_t word) {
    Emit(BPF_LD | BPF_DW | BPF_IMM, dst, BPF_PSEUDO_MAP_VALUE, 0, map);
    Emit(0, 0, 0, 0, static_cast<int32_t>(word * 8));
  }
  // *(u64*)at += 1, on whichever CPU
  void Count(int at, int one) {
    Emit(BPF_ALU64 | BPF_MOV | BPF_K, one, 0, 0, 1);
    Emit(BPF_STX | BPF_ATOMIC | BPF_DW, at, one, 0, BPF_ADD);
  }
  void Return(int32_t value) {
    Emit(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, value);
    Emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
  }
  std::vector<bpf_insn> Finish(int32_t pass) {
    for (const size_t at : jumps_) code_[at].off = static_cast<int16_t>(code_.size() - at - 1);
    Return(pass);
    return code_;
  }

 private:
  std::vector<bpf_insn> code_;
  std::vector<size_t> jumps_;
};

std::vector<bpf_insn> Program(bool xdp, int map, uint32_t port) {
  Code code;
  // struct xdp_md: data, data_end at 0, 4; struct __sk_buff: at 76, 80.
  const size_t data = xdp ? 0 : 76;
  if (!xdp) {
    code.Emit(BPF_ALU64 | BPF_MOV | BPF_X, R6, R1, 0, 0);
    code.Emit(BPF_ALU64 | BPF_MOV | BPF_K, R2, 0, 0, kFrameBytesMin);
    // A long frame may have its headers alone in the linear part.
    code.Emit(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_skb_pull_data);
    code.Emit(BPF_ALU64 | BPF_MOV | BPF_X, R1, R6, 0, 0);
  }
  code.Load(BPF_W, R2, R1, data);
  code.Load(BPF_W, R3, R1, data + 4);
  code.Emit(BPF_ALU64 | BPF_MOV | BPF_X, R4, R2, 0, 0);
  code.Emit(BPF_ALU64 | BPF_ADD | BPF_K, R4, 0, 0, kFrameBytesMin);
  code.PassIfAbove(R4, R3);
  code.Load(BPF_H, R5, R2, 12);
  code.PassUnless(R5, htons(ETH_P_IP));
  code.Load(BPF_B, R5, R2, kIp);
  code.PassUnless(R5, 0x45);
  code.Load(BPF_B, R5, R2, kIp + 9);
  code.PassUnless(R5, 17);
  code.Load(BPF_H, R5, R2, kUdp + 2);
  code.PassUnless(R5, htons(static_cast<uint16_t>(port)));
  code.Load(BPF_W, R7, R2, kStamp);
  code.MapWord(R8, map, 0);
  code.Count(R8, R1);
  // Low 32 bits of now less the stamp: right up to 4.2 s.
  code.Emit(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ktime_get_ns);
  code.Emit(BPF_ALU | BPF_SUB | BPF_X, R0, R7, 0, 0);
  code.Emit(BPF_ALU | BPF_RSH | BPF_K, R0, 0, 0, kStepBits);
  code.Emit(BPF_JMP | BPF_JLT | BPF_K, R0, 0, 1, kBuckets);
  code.Emit(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, kBuckets - 1);
  code.Emit(BPF_ALU64 | BPF_LSH | BPF_K, R0, 0, 0, 3);
  code.MapWord(R8, map, kHistogram);
  code.Emit(BPF_ALU64 | BPF_ADD | BPF_X, R8, R0, 0, 0);
  code.Count(R8, R1);
  code.Return(xdp ? XDP_DROP : kTcxDrop);
  return code.Finish(xdp ? XDP_PASS : kTcxPass);
}

Fd Attach(bool xdp, int interface, const Fd& program) {
  union bpf_attr attr {};
  attr.link_create.prog_fd = static_cast<uint32_t>(program.get());
  attr.link_create.target_ifindex = static_cast<uint32_t>(interface);
  attr.link_create.attach_type = static_cast<uint32_t>(xdp ? BPF_XDP : kTcxIngress);
  if (xdp) attr.link_create.flags = XDP_FLAGS_DRV_MODE;
  Fd link(static_cast<int>(Bpf(BPF_LINK_CREATE, &attr)));
  if (!link.ok()) Die("bpf(LINK_CREATE)");
  return link;
}

void PrintReading(int number, const volatile uint64_t* value) {
  uint64_t timed = 0;
  for (size_t i = 0; i < kBuckets; i += 1) timed += value[kHistogram + i];
  const double shares[] = {0.5, 0.99, 0.999};
  uint64_t found[3] = {};
  uint64_t most = 0;
  uint64_t below = 0;
  for (size_t i = 0; i < kBuckets; i += 1) {
    const uint64_t count = value[kHistogram + i];
    if (count == 0) continue;
    // The middle of the step.
    const uint64_t at = (static_cast<uint64_t>(i) << kStepBits) + (1u << (kStepBits - 1));
    for (int which = 0; which < 3; which += 1) {
      const double rank = shares[which] * static_cast<double>(timed);
      if (static_cast<double>(below) < rank && rank <= static_cast<double>(below + count)) found[which] = at;
    }
    below += count;
    most = at;
  }
  printf("{\"reading\":%d,\"frames\":%llu,\"timed\":%llu,\"p50\":%llu,\"p99\":%llu,\"p999\":%llu,\"max\":%llu}\n",
         number, static_cast<unsigned long long>(value[0]), static_cast<unsigned long long>(timed),
         static_cast<unsigned long long>(found[0]), static_cast<unsigned long long>(found[1]),
         static_cast<unsigned long long>(found[2]), static_cast<unsigned long long>(most));
  fflush(stdout);
}

int Run(bool xdp, const char* interface, uint32_t port) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int one : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) sigaddset(&signals, one);
  sigprocmask(SIG_BLOCK, &signals, nullptr);

  union bpf_attr attr {};
  attr.map_type = BPF_MAP_TYPE_ARRAY;
  attr.key_size = sizeof(uint32_t);
  attr.value_size = kWords * sizeof(uint64_t);
  attr.max_entries = 1;
  attr.map_flags = BPF_F_MMAPABLE;
  const Fd map(static_cast<int>(Bpf(BPF_MAP_CREATE, &attr)));
  if (!map.ok()) Die("bpf(MAP_CREATE)");
  void* at = mmap(nullptr, kWords * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, map.get(), 0);
  if (at == MAP_FAILED) Die("mmap");
  auto* value = static_cast<volatile uint64_t*>(at);
  Fd program;
  const headgate::Failure failure =
      headgate::bpf::LoadProgram(xdp ? BPF_PROG_TYPE_XDP : BPF_PROG_TYPE_SCHED_CLS,
                                 static_cast<uint32_t>(xdp ? BPF_XDP : kTcxIngress),
                                 Program(xdp, map.get(), port), "bench_sink", &program);
  if (failure) {
    errno = failure.code;
    Die(failure.subject.c_str());
  }
  const Fd link = Attach(xdp, IndexOf(interface), program);
  printf("ready\n");
  fflush(stdout);
  const double end = Now() + 7200;
  for (int readings = 0; Now() < end;) {
    const timespec second{1, 0};
    const int signal = sigtimedwait(&signals, nullptr, &second);
    // Of two that wait the lower number is first: what was to be forgotten is not read.
    if (signal == SIGUSR2) PrintReading(++readings, value);
    else if (signal == SIGUSR1) memset(static_cast<uint64_t*>(at) + kHistogram, 0, kBuckets * sizeof(uint64_t));
    else if (signal > 0) break;
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const bool xdp = count == 4 && strcmp(arguments[1], "xdp") == 0;
  if (count == 4 && (xdp || strcmp(arguments[1], "tc") == 0)) {
    return Run(xdp, arguments[2], static_cast<uint32_t>(atoi(arguments[3])));
  }
  fprintf(stderr, "usage: sink tc|xdp INTERFACE PORT\n");
  return 2;
}

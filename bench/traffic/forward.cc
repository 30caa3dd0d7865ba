// The floor of AF_XDP: a forwarder in C++ between two interfaces that changes nothing in a frame. One
// UMEM, copied into and out of by the kernel as in the gateway, one wait and one kick a batch.
//
//   forward INTERFACE INTERFACE CPU SECONDS
//     Every frame of the one leaves by the other. Prints "ready"; ends with SIGTERM or after SECONDS,
//     and then prints {received, sent, cpuSeconds}.
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>

#include "../../addon/bpf.h"
#include "../../addon/xsk.h"
#include "common.h"

namespace {

using headgate::Failure;
using headgate::Fd;
using headgate::XskGroup;
using headgate::XskRing;
using headgate::XskSettings;
namespace bpf = headgate::bpf;

constexpr size_t kChunkBytes = 2048;
constexpr uint32_t kRing = 2048;
constexpr size_t kBatch = 64;

void Check(const Failure& failure) {
  if (!failure) return;
  errno = failure.code;
  Die((std::string(failure.call) + " " + failure.subject).c_str());
}

volatile sig_atomic_t ended = 0;
void End(int) { ended = 1; }

uint8_t* Map(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (at == MAP_FAILED) Die("mmap");
  return static_cast<uint8_t*>(at);
}

// Hands every frame of queue 0 to the socket of the map; without one the kernel has it.
struct Redirect {
  Redirect(int interface, int socket) {
    Check(bpf::CreateMap(BPF_MAP_TYPE_XSKMAP, sizeof(uint32_t), 1, 0, "bench_sockets", &map));
    bpf::Assembler code;
    code.Load(BPF_W, bpf::R2, bpf::R1, 16);  // struct xdp_md: rx_queue_index
    code.LoadMap(bpf::R1, map.get());
    code.MoveValue(bpf::R3, XDP_PASS);
    code.Call(BPF_FUNC_redirect_map);
    code.Exit();
    Check(bpf::LoadProgram(BPF_PROG_TYPE_XDP, BPF_XDP, code.Finish(), "bench_redirect", &program));
    const uint32_t queue = 0;
    Check(bpf::UpdateMap(map, &queue, static_cast<uint32_t>(socket), "bench_sockets"));
    union bpf_attr attr {};
    attr.link_create.prog_fd = static_cast<uint32_t>(program.get());
    attr.link_create.target_ifindex = static_cast<uint32_t>(interface);
    attr.link_create.attach_type = BPF_XDP;
    attr.link_create.flags = XDP_FLAGS_DRV_MODE;
    link = Fd(static_cast<int>(bpf::Bpf(BPF_LINK_CREATE, &attr)));
    if (!link.ok()) Die("bpf(LINK_CREATE)");
  }
  Fd map, program, link;
};

class Forwarder {
 public:
  Forwarder(const char* const* interfaces) {
    XskSettings settings;
    settings.chunks = 2 * kRing;
    settings.chunk_bytes = kChunkBytes;
    settings.fill_entries = settings.completion_entries = kRing;
    settings.rx_entries = settings.tx_entries = kRing;
    size_t rings_bytes = 0;
    Check(group_.MeasureRings(settings, &rings_bytes));
    uint8_t* umem = Map(settings.chunks * kChunkBytes);
    uint8_t* rings = Map(2 * rings_bytes);
    Check(group_.Open(settings, umem, rings,
                      {{IndexOf(interfaces[0]), interfaces[0], 0, false},
                       {IndexOf(interfaces[1]), interfaces[1], 0, false}}));
    // Half of the chunks wait for frames of each interface.
    for (uint32_t side = 0; side < 2; side += 1) {
      for (uint32_t i = 0; i < kRing; i += 1) Fill(side, (side * kRing + i) * kChunkBytes);
      Publish(group_.sockets[side].fill);
    }
  }

  int Socket(size_t side) const { return group_.sockets[side].fd.get(); }

  // One batch of one interface; its number of frames.
  size_t Step(size_t side) {
    const XskRing& rx = group_.sockets[side].rx;
    const XskRing& tx = group_.sockets[1 - side].tx;
    Recycle(1 - side);
    const uint32_t produced = __atomic_load_n(rx.producer, __ATOMIC_ACQUIRE);
    uint32_t consumed = *rx.consumer;
    uint32_t room = kRing - (*tx.producer - __atomic_load_n(tx.consumer, __ATOMIC_ACQUIRE));
    uint32_t position = *tx.producer;
    size_t count = 0;
    for (; consumed != produced && count < kBatch; consumed += 1, count += 1) {
      const xdp_desc frame = rx.Descriptor(consumed);
      if (room == 0) {
        Fill(side, frame.addr & ~(kChunkBytes - 1));
        continue;
      }
      tx.Descriptor(position++) = frame;
      room -= 1;
    }
    if (count == 0) return 0;
    received += count;
    sent += position - *tx.producer;
    __atomic_store_n(rx.consumer, consumed, __ATOMIC_RELEASE);
    __atomic_store_n(tx.producer, position, __ATOMIC_RELEASE);
    group_.Kick(1 - side);
    return count;
  }

  uint64_t received = 0;
  uint64_t sent = 0;

 private:
  static void Publish(const XskRing& ring) {
    __atomic_store_n(ring.producer, *ring.producer, __ATOMIC_RELEASE);
  }
  void Fill(size_t side, uint64_t chunk) {
    const XskRing& fill = group_.sockets[side].fill;
    fill.Address(*fill.producer) = chunk;
    __atomic_store_n(fill.producer, *fill.producer + 1, __ATOMIC_RELEASE);
  }
  // Chunks that were sent go back to the interface whose frames they carried.
  void Recycle(size_t side) {
    const XskRing& completion = group_.sockets[side].completion;
    const uint32_t done = __atomic_load_n(completion.producer, __ATOMIC_ACQUIRE);
    uint32_t seen = *completion.consumer;
    for (; seen != done; seen += 1) Fill(1 - side, completion.Address(seen) & ~(kChunkBytes - 1));
    __atomic_store_n(completion.consumer, seen, __ATOMIC_RELEASE);
  }

  XskGroup group_;
};

int Run(char** arguments) {
  struct sigaction action {};
  action.sa_handler = End;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  PinTo(atoi(arguments[2]));
  static Forwarder* forwarder = new Forwarder(arguments);
  const Redirect first(IndexOf(arguments[0]), forwarder->Socket(0));
  const Redirect second(IndexOf(arguments[1]), forwarder->Socket(1));
  printf("ready\n");
  fflush(stdout);
  const double used = Used();
  const double end = Now() + atof(arguments[3]);
  pollfd fds[2] = {{forwarder->Socket(0), POLLIN, 0}, {forwarder->Socket(1), POLLIN, 0}};
  while (ended == 0) {
    if (forwarder->Step(0) + forwarder->Step(1) > 0) continue;
    if (Now() > end) break;
    poll(fds, 2, 10);
  }
  printf("{\"received\":%llu,\"sent\":%llu,\"cpuSeconds\":%f}\n",
         static_cast<unsigned long long>(forwarder->received),
         static_cast<unsigned long long>(forwarder->sent), Used() - used);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 5) return Run(arguments + 1);
  fprintf(stderr, "usage: forward INTERFACE INTERFACE CPU SECONDS\n");
  return 2;
}

// What every frame device is on the native side, and the batch layout it shares with
// src/device/device.ts. JavaScript checks the numbers at load (`layout` of the module).
#ifndef HEADGATE_ADDON_FRAME_IO_H_
#define HEADGATE_ADDON_FRAME_IO_H_

#include <time.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "util.h"

namespace headgate {

// src/base/limits.ts: BATCH_FRAMES_MAX, OUT_FRAMES_MAX, INTERFACES_MAX.
constexpr int kBatchFramesMax = 64;
constexpr int kOutFramesMax = 128;
constexpr int kInterfacesMax = 16;

// src/device/device.ts: one descriptor, and the results of a transmit.
struct Descriptor {
  int32_t at;
  int32_t bytes;
  int32_t interface;
  uint32_t vnet;
  uint32_t csum;
  int32_t from;
  int32_t result;
  int32_t user;
};
static_assert(sizeof(Descriptor) == 32, "8 words a descriptor");

enum TxResult : int32_t { kTxSent = 0, kTxFull = 1, kTxTooBig = 2, kTxFailed = 3 };

// The first bytes of a device's memory: descriptors and words that JavaScript reads.
constexpr size_t kRxAt = 0;
constexpr size_t kTxAt = kRxAt + kBatchFramesMax * sizeof(Descriptor);
constexpr size_t kTickAt = kTxAt + kOutFramesMax * sizeof(Descriptor);
// MTU of each interface, one int32 word each, kept up to date.
constexpr size_t kMtuAt = kTickAt + 64;
constexpr size_t kHeaderBytes = 8192;
static_assert(kMtuAt + kInterfacesMax * 4 <= kHeaderBytes, "the batch fits its pages");

// Spares: one for every frame of our own making that one batch may send.
constexpr int kSpareCount = 64;
constexpr size_t kSpareBytesMin = 2048;
// A spare has room for a packet of the MTU and for what the fast path puts before it.
constexpr size_t kSpareLeadBytes = 128;

// What the fast path may overwrite before each received frame (src/device/device.ts): an outer IPv6
// and a UDP header.
constexpr size_t kHeadroomBytes = 48;

// The inlet: a batch of ordinary frames of another worker, or one of the largest and some others.
constexpr size_t kInletSlotBytes = 2048;
constexpr size_t kInletSlots = 2 * kBatchFramesMax;

// Largest frame that is received: 64 KiB and its headers (PACKET_BYTES_MAX).
constexpr size_t kFrameBytesMax = 65536 + 64;

// struct virtio_net_hdr of include/uapi/linux/virtio_net.h, which C++ cannot include (it has a
// field named `class`). Host byte order, as sockets and TUN have it unless told otherwise.
struct VnetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
};
constexpr size_t kVnetBytes = sizeof(VnetHeader);
static_assert(kVnetBytes == 10, "the header without num_buffers");

constexpr uint8_t kVnetNeedsCsum = 1;
constexpr uint8_t kGsoTcpV4 = 1;
constexpr uint8_t kGsoUdp = 3;
constexpr uint8_t kGsoTcpV6 = 4;
constexpr uint8_t kGsoUdpL4 = 5;
constexpr uint8_t kGsoEcn = 0x80;

struct InterfaceInfo {
  std::string name;
  int index = 0;
  std::string mac;
  int mtu = 0;
};

struct IoStatistics {
  // Frames that the kernel had no room for.
  double missed = 0;
  // Frames that were left to the kernel: tagged with a VLAN, or for another host's address.
  double skipped = 0;
};

// The workers that share the interfaces of a device, and the place of this one among them.
struct Crew {
  int worker = 0;
  int workers = 1;
  // Descriptor of the steering program (steering.cc).
  int program = -1;
  // AF_PACKET: the fan-out group of each interface; empty: worker 0 makes them.
  std::vector<int> groups;
  // Wake-ups of all workers, by number.
  std::vector<int> wakes;
};

// The crew that an argument names; undefined: this device is alone.
Crew ReadCrew(const Napi::Value& value);

// A device: fills and drains the batch at the start of `memory`. All methods run on one thread.
class FrameIo : public SharedOwner {
 public:
  // Frames received, or -errno when the device is gone for good.
  virtual int Receive(int timeout_ms) = 0;
  // Frames sent.
  virtual int Transmit(int count) = 0;
  virtual IoStatistics ReadStatistics() = 0;

  Mapping memory;
  size_t spare_at = 0;
  size_t spare_bytes = 0;
  std::vector<InterfaceInfo> interfaces;
  // Where frames of other workers are copied to: slots of kInletSlotBytes; 0: no other workers.
  size_t inlet_at = 0;
  // AF_PACKET: fan-out group of each interface; empty without other workers.
  std::vector<int> groups;
  double calls = 0;
  // Microseconds that a receive looks for frames before it blocks, when the last one had some.
  int spin_us = 0;

  // Keeps a duplicate of each worker's wake-up, so that their owners may close them first.
  Failure KeepWakes(const std::vector<int>& wakes);
  // Wakes the workers whose bit is set.
  void Wake(uint32_t mask) const;

 protected:
  // Bytes of the inlet: none without other workers.
  static size_t InletBytes(const Crew& crew) {
    return crew.workers > 1 ? kInletSlots * kInletSlotBytes : 0;
  }

  Descriptor* rx() const { return reinterpret_cast<Descriptor*>(memory.at() + kRxAt); }
  Descriptor* tx() const { return reinterpret_cast<Descriptor*>(memory.at() + kTxAt); }
  int32_t* mtu_words() const { return reinterpret_cast<int32_t*>(memory.at() + kMtuAt); }

  // Writes the clock into the batch: CLOCK_MONOTONIC milliseconds, and behind them microseconds, low
  // 32 bits each. Returns the milliseconds.
  uint32_t WriteTick() const {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const uint64_t microseconds =
        static_cast<uint64_t>(now.tv_sec) * 1000000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
    const uint32_t words[2] = {static_cast<uint32_t>(microseconds / 1000),
                               static_cast<uint32_t>(microseconds)};
    memcpy(memory.at() + kTickAt, words, sizeof words);
    return words[0];
  }

  // Called when frames came: the next wait may spin.
  void NoteFrames() { had_frames_ = true; }
  // Where a wait may spin: calls `look` until it is true or the time to spin is over; then waits
  // block at once, until frames come again.
  template <typename Look>
  bool SpinUntil(Look look) {
    if (spin_us == 0 || !had_frames_) return false;
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t end = NanosecondsOf(now) + static_cast<int64_t>(spin_us) * 1000;
    do {
      for (int looks = 0; looks < kLooksPerClock; looks += 1) {
        if (look()) return true;
        Relax();
      }
      clock_gettime(CLOCK_MONOTONIC, &now);
    } while (NanosecondsOf(now) < end);
    had_frames_ = false;
    return false;
  }

  // True when [at, at + bytes) lies behind the batch and inside the memory: a wrong descriptor is
  // a refused frame, never a wild read.
  bool IsFrame(const Descriptor& frame) const {
    return frame.at >= static_cast<int32_t>(kHeaderBytes) && frame.bytes > 0 &&
           static_cast<size_t>(frame.at) + static_cast<size_t>(frame.bytes) <= memory.bytes();
  }

  static void Describe(Descriptor* out, size_t at, size_t bytes, int interface,
                       const VnetHeader& vnet) {
    out->at = static_cast<int32_t>(at);
    out->bytes = static_cast<int32_t>(bytes);
    out->interface = interface;
    out->vnet = static_cast<uint32_t>(vnet.flags) | static_cast<uint32_t>(vnet.gso_type) << 8 |
                static_cast<uint32_t>(vnet.gso_size) << 16;
    out->csum =
        static_cast<uint32_t>(vnet.csum_start) | static_cast<uint32_t>(vnet.csum_offset) << 16;
    out->from = 0;
    out->result = 0;
    out->user = 0;
  }

  // The header to send a frame with. hdr_len is made new: what a kernel received with may be wrong
  // (on forwarding it can be the whole first packet).
  static VnetHeader VnetOf(const Descriptor& frame, const uint8_t* bytes) {
    VnetHeader vnet{};
    vnet.flags = static_cast<uint8_t>(frame.vnet & kVnetNeedsCsum);
    vnet.gso_type = static_cast<uint8_t>(frame.vnet >> 8);
    vnet.gso_size = static_cast<uint16_t>(frame.vnet >> 16);
    if (vnet.flags != 0) {
      vnet.csum_start = static_cast<uint16_t>(frame.csum);
      vnet.csum_offset = static_cast<uint16_t>(frame.csum >> 16);
    }
    if (vnet.gso_type != 0) {
      const uint8_t type = static_cast<uint8_t>(vnet.gso_type & ~kGsoEcn);
      size_t header = vnet.csum_start;
      if (type == kGsoUdpL4 || type == kGsoUdp) {
        header += 8;
      } else if (header + 13 <= static_cast<size_t>(frame.bytes)) {
        header += static_cast<size_t>(bytes[header + 12] >> 4) * 4;
      }
      if (header > static_cast<size_t>(frame.bytes)) header = static_cast<size_t>(frame.bytes);
      vnet.hdr_len = static_cast<uint16_t>(header);
    }
    return vnet;
  }

  // Reserves `bytes` and makes the first `plain_bytes` of it ordinary memory, the first
  // `touched_bytes` with its pages there; the rest is for rings to be mapped over.
  Failure Reserve(size_t bytes, size_t plain_bytes, size_t touched_bytes) {
    void* range = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return {errno, "mmap", "frame memory"};
    memory = Mapping(range, bytes);
    void* plain = mmap(range, plain_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (plain == MAP_FAILED) return {errno, "mmap", "frame memory"};
    const size_t touched = RoundUp(touched_bytes, 4096);
    if (madvise(range, touched, MADV_POPULATE_WRITE) != 0 && errno != EINVAL) {
      return {errno, "madvise", "frame memory"};
    }
    return {};
  }

 private:
  static constexpr int kLooksPerClock = 16;

  static int64_t NanosecondsOf(const timespec& time) {
    return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
  }
  // Lets the other thread of the core work, and saves power.
  static void Relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  bool had_frames_ = false;
  std::vector<Fd> wakes_;
};

// The JavaScript object of a device: memory, places in it, interfaces and four functions. Takes
// over `io`. Returns an empty value with an exception pending when the buffer cannot be made.
napi_value MakeDevice(napi_env env, FrameIo* io);

// Reads the eventfd empty.
void DrainWake(int wake_fd);

// What an interface is: an Ethernet one (else EINVAL) that is up (else ENETDOWN).
Failure ReadEthernet(int socket, const std::string& name, InterfaceInfo* info);

// MTU, or -errno.
int ReadMtu(int socket, int index, std::string* name);

}  // namespace headgate

#endif  // HEADGATE_ADDON_FRAME_IO_H_

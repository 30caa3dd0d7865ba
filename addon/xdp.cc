// AF_XDP on up to 16 Ethernet interfaces: opens the sockets, waits and kicks. The rings and the
// frames are TypeScript's (src/device/xdp-rings.ts); all of it lies in one range.
//
// Memory    batch | spares | inlet | UMEM | rings of socket 0 | rings of socket 1 | ...
// Sockets   One for every (interface, queue) that this device owns. They share one UMEM, so that a
//           frame goes from one interface to another where it lies. An interface on which the
//           device owns no queue is sent to through AF_PACKET. One of several workers may own no
//           queue at all: it works on what the others hand it.
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>

#include "bpf.h"
#include "frame_io.h"
#include "groups.h"
#include "ownership.h"
#include "packet_send.h"
#include "parts.h"
#include "xsk.h"

namespace headgate {

namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kSocketsMax = 256;
// errno of each socket's last kick, an int32 word each, at the end of the batch's pages.
constexpr size_t kKickedAt = kHeaderBytes - kSocketsMax * 4;
static_assert(kKickedAt >= kMtuAt + kInterfacesMax * 4, "the words have room behind the batch");

// What src/device/xdp-rings.ts writes as the result of a frame for AF_PACKET.
constexpr int32_t kTxByPacket = 4;

// Chunks and entries of a ring are plenty with a few queues (8 MiB each) and less with many.
constexpr uint32_t kEntries = 2048;
constexpr uint32_t kEntriesMany = 1024;
constexpr size_t kManyQueues = 8;

struct XdpInterface {
  std::string name;
  std::vector<uint32_t> queues;
  // Its place in the list of the guard, for the socket map.
  uint32_t ordinal = 0;
  bool generic = false;
};

struct XdpOptions {
  std::vector<XdpInterface> interfaces;
  int wake_fd = -1;
  int socket_map = -1;
  ZeroCopy zero_copy = ZeroCopy::kAuto;
  int busy_poll_us = 0;
  Crew crew;
};

class XdpIo : public FrameIo {
 public:
  Failure Open(const XdpOptions& options) {
    wake_ = Fd(fcntl(options.wake_fd, F_DUPFD_CLOEXEC, 0));
    if (!wake_.ok()) return {errno, "fcntl", "wakeFd"};
    control_ = Fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!control_.ok()) return {errno, "socket", "interfaces"};
    // Protocol 0: it receives nothing.
    groups_ = Fd(socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!groups_.ok()) return {errno, "socket", "interfaces"};
    int mtu_max = 0;
    for (const XdpInterface& each : options.interfaces) {
      InterfaceInfo info;
      if (Failure failure = ReadEthernet(control_.get(), each.name, &info)) return failure;
      if (Failure failure = JoinGroups(groups_.get(), info.index, each.name)) return failure;
      mtus_.push_back(info.mtu);
      mtu_max = std::max(mtu_max, info.mtu);
      interfaces.push_back(std::move(info));
      for (const uint32_t queue : each.queues) {
        places_.push_back({interfaces.back().index, each.name, queue, each.generic});
        socket_interfaces.push_back(static_cast<int>(interfaces.size()) - 1);
        socket_keys_.push_back(each.ordinal * bpf::kQueuesMax + queue);
      }
    }
    if (places_.size() > kSocketsMax) return {E2BIG, "queues", interfaces[0].name};
    if (Failure failure = KeepWakes(options.crew.wakes)) return failure;

    settings.zero_copy = options.zero_copy;
    settings.busy_poll_us = options.busy_poll_us;
    if (Failure failure = Size(mtu_max, InletBytes(options.crew))) return failure;
    if (Failure failure = OpenSockets(options.socket_map)) return failure;
    fds_.push_back({wake_.get(), POLLIN, 0});
    for (size_t i = 0; i < interfaces.size(); i += 1) {
      mtu_words()[i] = mtus_[i];
      senders_.push_back(std::make_unique<PacketSender>());
      if (!options.interfaces[i].queues.empty()) continue;
      if (Failure failure = senders_.back()->Open(interfaces[i])) return failure;
    }
    WriteTick();
    return {};
  }

  // Waits for a frame in any ring, a wake-up, or the time, and writes the tick; below 0 it only
  // writes the tick. Returns 0, or -ENODEV.
  int Receive(int timeout_ms) override {
    if (timeout_ms >= 0 && !gone_ && !Spin(timeout_ms)) Wait(timeout_ms);
    const uint32_t tick = WriteTick();
    if (tick - links_read_ >= 1000) {
      links_read_ = tick;
      ReadLinks();
    }
    return gone_ ? -ENODEV : 0;
  }

  // Has the kernel send what was put into the send rings, and sends the frames whose result is
  // kTxByPacket. Returns 1 when the frames of a socket were refused (its word at kKickedAt is not
  // 0), else 0.
  int Transmit(int count) override {
    bool by_packet = false;
    for (int i = 0; i < count; i += 1) {
      Descriptor& frame = tx()[i];
      if (frame.result != kTxByPacket) continue;
      frame.result = kTxFailed;
      if (!IsFrame(frame) || frame.interface < 0 ||
          static_cast<size_t>(frame.interface) >= interfaces.size()) {
        continue;
      }
      PacketSender& sender = *senders_[static_cast<size_t>(frame.interface)];
      if (!sender.ok()) continue;
      uint8_t* bytes = memory.at() + frame.at;
      sender.Add(&frame, bytes, VnetOf(frame, bytes));
      by_packet = true;
    }
    if (by_packet) {
      for (auto& sender : senders_) sender->Flush();
    }
    auto* kicked = reinterpret_cast<int32_t*>(memory.at() + kKickedAt);
    int refused = 0;
    for (size_t i = 0; i < group.sockets.size(); i += 1) {
      const XskRing& tx = group.sockets[i].tx;
      if (*tx.producer == __atomic_load_n(tx.consumer, __ATOMIC_ACQUIRE)) {
        group.sockets[i].told = *tx.producer;
        kicked[i] = 0;
        continue;
      }
      kicked[i] = group.Kick(i);
      if (kicked[i] != 0) refused = 1;
    }
    WriteTick();
    return refused;
  }

  IoStatistics ReadStatistics() override { return {group.Missed(), 0}; }

  void Release() override {
    // The rings are unmapped first, then the sockets let go of their pages.
    memory.Unmap();
    group.Close();
    senders_.clear();
    control_.Close();
    wake_.Close();
  }

  XskGroup group;
  XskSettings settings;
  size_t umem_at = 0;
  size_t rings_at = 0;
  // By socket: index of its interface in the device's list.
  std::vector<int> socket_interfaces;

 private:
  // The sockets, and their places in the socket map. A device that owns no queue has none.
  Failure OpenSockets(int socket_map) {
    if (places_.empty()) return {};
    if (Failure failure = group.Open(settings, memory.at() + umem_at, memory.at() + rings_at,
                                     places_)) {
      return failure;
    }
    const Fd map(fcntl(socket_map, F_DUPFD_CLOEXEC, 0));
    if (!map.ok()) return {errno, "fcntl", "socketMap"};
    for (size_t i = 0; i < places_.size(); i += 1) {
      const Failure failure =
          bpf::UpdateMap(map, &socket_keys_[i], static_cast<uint32_t>(group.sockets[i].fd.get()),
                         "AF_XDP sockets");
      if (failure) return failure;
      fds_.push_back({group.sockets[i].fd.get(), POLLIN, 0});
    }
    return {};
  }

  // Chooses sizes, and reserves the memory.
  Failure Size(int mtu_max, size_t inlet_bytes) {
    const size_t frame_bytes = static_cast<size_t>(mtu_max) + ETH_HLEN;
    if (kXskFrameAt + frame_bytes > settings.chunk_bytes) settings.chunk_bytes = kPageBytes;
    if (kXskFrameAt + frame_bytes > settings.chunk_bytes) {
      // A chunk is at most a page (net/xdp/xdp_umem.c).
      return {EMSGSIZE, "MTU", std::to_string(kPageBytes - kXskFrameAt - ETH_HLEN)};
    }
    const uint32_t entries = places_.size() > kManyQueues ? kEntriesMany : kEntries;
    settings.fill_entries = settings.completion_entries = entries;
    settings.rx_entries = settings.tx_entries = entries;
    settings.chunks = 2 * entries * places_.size();
    settings.tx_budget = kOutFramesMax;
    size_t rings_bytes = 0;
    if (!places_.empty()) {
      if (Failure failure = group.MeasureRings(settings, &rings_bytes)) return failure;
    }
    spare_bytes = std::max(kSpareBytesMin,
                           RoundUp(static_cast<size_t>(mtu_max) + kSpareLeadBytes, 64));
    spare_at = kHeaderBytes;
    const size_t spares_end = spare_at + kSpareCount * spare_bytes;
    if (inlet_bytes > 0) inlet_at = spares_end;
    umem_at = RoundUp(spares_end + inlet_bytes, kPageBytes);
    rings_at = umem_at + settings.chunks * settings.chunk_bytes;
    return Reserve(rings_at + places_.size() * rings_bytes, rings_at, rings_at);
  }

  // Looks at the rings for a while, as long as frames came lately. True when there are frames.
  bool Spin(int timeout_ms) {
    if (timeout_ms == 0 || spin_us == 0) return false;
    uint32_t taken = 0;
    for (const XskSocket& socket : group.sockets) taken += *socket.rx.consumer;
    if (taken != std::exchange(taken_, taken)) NoteFrames();
    return SpinUntil([this] {
      for (const XskSocket& socket : group.sockets) {
        if (__atomic_load_n(socket.rx.producer, __ATOMIC_ACQUIRE) != *socket.rx.consumer) {
          return true;
        }
      }
      return false;
    });
  }

  void Wait(int timeout_ms) {
    if (poll(fds_.data(), fds_.size(), timeout_ms) <= 0) return;
    if (fds_.back().revents != 0) DrainWake(wake_.get());
    for (size_t i = 0; i + 1 < fds_.size(); i += 1) {
      if ((fds_[i].revents & (POLLERR | POLLHUP | POLLNVAL)) == 0) continue;
      // Told once when the interface is taken away; reading it makes poll wait again.
      int code = 0;
      socklen_t bytes = sizeof code;
      (void)getsockopt(fds_[i].fd, SOL_SOCKET, SO_ERROR, &code, &bytes);
      ReadLinks();
    }
  }

  // Follows the MTUs, and finds out whether the interfaces are still there.
  void ReadLinks() {
    const size_t frame_max = settings.chunk_bytes - kXskFrameAt - ETH_HLEN;
    for (size_t i = 0; i < interfaces.size(); i += 1) {
      const int mtu = ReadMtu(control_.get(), interfaces[i].index, nullptr);
      if (mtu == -ENODEV) gone_ = true;
      if (mtu <= 0) continue;
      // A chunk and a spare have to hold a frame of the MTU that the fast path goes by.
      const size_t most = std::min(frame_max, spare_bytes - kSpareLeadBytes);
      mtu_words()[i] = std::min(mtu, static_cast<int>(most));
    }
  }

  Fd wake_;
  Fd control_;
  Fd groups_;
  std::vector<XskPlace> places_;
  std::vector<uint32_t> socket_keys_;
  std::vector<int> mtus_;
  std::vector<pollfd> fds_;
  std::vector<std::unique_ptr<PacketSender>> senders_;
  // Frames taken from all rings when the last wait began.
  uint32_t taken_ = 0;
  uint32_t links_read_ = 0;
  bool gone_ = false;
};

void SetRing(napi_env env, napi_value object, const char* name, const XdpIo& io,
             const XskRing& ring) {
  napi_value entry = nullptr;
  napi_create_object(env, &entry);
  const auto offset = [&io](const void* at) {
    return static_cast<double>(static_cast<const uint8_t*>(at) - io.memory.at());
  };
  SetNumber(env, entry, "producerAt", offset(ring.producer));
  SetNumber(env, entry, "consumerAt", offset(ring.consumer));
  SetNumber(env, entry, "flagsAt", offset(ring.flags));
  SetNumber(env, entry, "entriesAt", offset(ring.entries_at));
  SetNumber(env, entry, "entries", ring.entries);
  napi_set_named_property(env, object, name, entry);
}

// What src/device/xdp.ts needs to know beside what every device has.
void AddXdp(napi_env env, napi_value device, const XdpIo& io) {
  SetNumber(env, device, "umemAt", static_cast<double>(io.umem_at));
  SetNumber(env, device, "chunkBytes", static_cast<double>(io.settings.chunk_bytes));
  SetNumber(env, device, "chunks", static_cast<double>(io.settings.chunks));
  SetNumber(env, device, "frameAt", kXskFrameAt);
  SetNumber(env, device, "metadataBytes", io.group.tx_metadata ? kXskTxMetadataBytes : 0);
  SetNumber(env, device, "kickedAt", kKickedAt);
  bool zero_copy = !io.group.sockets.empty();
  napi_value list = nullptr;
  napi_create_array_with_length(env, io.group.sockets.size(), &list);
  for (size_t i = 0; i < io.group.sockets.size(); i += 1) {
    const XskSocket& socket = io.group.sockets[i];
    zero_copy = zero_copy && socket.zero_copy;
    napi_value entry = nullptr;
    napi_create_object(env, &entry);
    SetNumber(env, entry, "interface", io.socket_interfaces[i]);
    SetRing(env, entry, "fill", io, socket.fill);
    SetRing(env, entry, "completion", io, socket.completion);
    SetRing(env, entry, "rx", io, socket.rx);
    SetRing(env, entry, "tx", io, socket.tx);
    napi_set_element(env, list, static_cast<uint32_t>(i), entry);
  }
  napi_set_named_property(env, device, "sockets", list);
  napi_value is_zero_copy = nullptr;
  napi_get_boolean(env, zero_copy, &is_zero_copy);
  napi_set_named_property(env, device, "zeroCopy", is_zero_copy);
}

// openXdp(interfaces, wakeFd, socketMap, zeroCopy, busyPollUs, crew); interfaces: {name, queues,
// ordinal, generic} each, zeroCopy: 0 auto, 1 off, 2 require. Arguments were checked in xdp.ts.
Napi::Value OpenXdp(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  XdpOptions options;
  const auto list = info[0].As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i += 1) {
    const auto object = list.Get(i).As<Napi::Object>();
    XdpInterface each;
    each.name = object.Get("name").As<Napi::String>().Utf8Value();
    each.ordinal = object.Get("ordinal").As<Napi::Number>().Uint32Value();
    each.generic = object.Get("generic").As<Napi::Boolean>().Value();
    const auto queues = object.Get("queues").As<Napi::Array>();
    for (uint32_t j = 0; j < queues.Length(); j += 1) {
      each.queues.push_back(queues.Get(j).As<Napi::Number>().Uint32Value());
    }
    options.interfaces.push_back(each);
  }
  options.wake_fd = info[1].As<Napi::Number>().Int32Value();
  options.socket_map = info[2].As<Napi::Number>().Int32Value();
  options.zero_copy = static_cast<ZeroCopy>(info[3].As<Napi::Number>().Int32Value());
  options.busy_poll_us = info[4].As<Napi::Number>().Int32Value();
  options.crew = ReadCrew(info[5]);
  auto* io = new XdpIo();
  if (const Failure failure = io->Open(options)) {
    io->Release();
    delete io;
    Throw(env, failure);
    return env.Undefined();
  }
  napi_value device = MakeDevice(env, io);
  if (device == nullptr) return env.Undefined();
  AddXdp(env, device, *io);
  return Napi::Value(env, device);
}

// receiveQueues(name): receive queues in use, or -errno where the driver does not say.
Napi::Value ReceiveQueues(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string name = info[0].As<Napi::String>().Utf8Value();
  const Fd control(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ethtool_channels channels{};
  channels.cmd = ETHTOOL_GCHANNELS;
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_data = reinterpret_cast<char*>(&channels);
  if (ioctl(control.get(), SIOCETHTOOL, &request) != 0) return Napi::Number::New(env, -errno);
  return Napi::Number::New(env, channels.rx_count + channels.combined_count);
}

}  // namespace

void InitXdp(Napi::Env env, Napi::Object exports) {
  exports.Set("openXdp", Napi::Function::New(env, OpenXdp, "openXdp"));
  exports.Set("receiveQueues", Napi::Function::New(env, ReceiveQueues, "receiveQueues"));
}

}  // namespace headgate

// A TUN device: IP packets with a virtio_net_hdr, read and written one by one.
//
// Memory    batch | spares | inlet | packets. Packets of one batch are read one behind the other, each
//           with room for the largest one, so that small packets stay close together in cache.
// Headers   The 10-byte header is read to 6 mod 16, so the IP header starts on 16 bytes.
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>

#include "frame_io.h"
#include "parts.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

namespace headgate {

namespace {

// Packets that wait for us in the kernel: 500 by default, less than one TCP window of GSO-less
// packets.
constexpr int kQueuePackets = 10000;

// Bytes before a packet: headroom, and the header, on a boundary that keeps the IP header aligned.
constexpr size_t kLeadBytes = 16 + kHeadroomBytes;
constexpr size_t kPacketStep = 64;
constexpr size_t kReadBytes = kVnetBytes + kFrameBytesMax;

class TunIo : public FrameIo {
 public:
  Failure Open(const std::string& name, int wake_fd, const Crew& crew) {
    if (Failure failure = KeepWakes(crew.wakes)) return failure;
    wake_ = Fd(fcntl(wake_fd, F_DUPFD_CLOEXEC, 0));
    if (!wake_.ok()) return {errno, "fcntl", "wakeFd"};
    tun_ = Fd(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!tun_.ok()) return {errno, "open", "/dev/net/tun"};
    control_ = Fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!control_.ok()) return {errno, "socket", name};

    ifreq request{};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
    if (crew.workers > 1) request.ifr_flags |= IFF_MULTI_QUEUE;
    if (ioctl(tun_.get(), TUNSETIFF, &request) != 0) return {errno, "TUNSETIFF", name};
    // Queues are numbered in the order in which they are attached.
    if (crew.workers > 1 && crew.worker == 0 &&
        ioctl(tun_.get(), TUNSETSTEERINGEBPF, &crew.program) != 0) {
      return {errno, "TUNSETSTEERINGEBPF", name};
    }
    const int header = kVnetBytes;
    if (ioctl(tun_.get(), TUNSETVNETHDRSZ, &header) != 0) return {errno, "TUNSETVNETHDRSZ", name};
    const unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if (ioctl(tun_.get(), TUNSETOFFLOAD, offloads) != 0) return {errno, "TUNSETOFFLOAD", name};
    // Since Linux 6.2; without it UDP comes in datagrams, which is slower and as good.
    (void)ioctl(tun_.get(), TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6);

    ifreq link{};
    name.copy(link.ifr_name, IFNAMSIZ - 1);
    link.ifr_qlen = kQueuePackets;
    if (ioctl(control_.get(), SIOCSIFTXQLEN, &link) != 0) return {errno, "SIOCSIFTXQLEN", name};
    if (ioctl(control_.get(), SIOCGIFFLAGS, &link) != 0) return {errno, "SIOCGIFFLAGS", name};
    link.ifr_flags = static_cast<short>(link.ifr_flags | IFF_UP);
    if (ioctl(control_.get(), SIOCSIFFLAGS, &link) != 0) return {errno, "SIOCSIFFLAGS", name};
    if (ioctl(control_.get(), SIOCGIFINDEX, &link) != 0) return {errno, "SIOCGIFINDEX", name};
    InterfaceInfo info;
    info.name = name;
    info.index = link.ifr_ifindex;
    info.mtu = ReadMtu(control_.get(), info.index, nullptr);
    if (info.mtu < 0) return {-info.mtu, "SIOCGIFMTU", name};

    spare_at = kHeaderBytes;
    spare_bytes =
        std::max(kSpareBytesMin, RoundUp(static_cast<size_t>(info.mtu) + kSpareLeadBytes, 64));
    packets_at_ = spare_at + kSpareCount * spare_bytes;
    if (InletBytes(crew) > 0) {
      inlet_at = packets_at_;
      packets_at_ += InletBytes(crew);
    }
    const size_t bytes =
        RoundUp(packets_at_ + kBatchFramesMax * RoundUp(kLeadBytes + kReadBytes, kPacketStep), 4096);
    if (Failure failure = Reserve(bytes, bytes, packets_at_)) return failure;
    mtu_words()[0] = info.mtu;
    interfaces.push_back(info);
    WriteTick();
    return {};
  }

  int Receive(int timeout_ms) override {
    int count = ReadPackets();
    if (count == 0 && timeout_ms != 0) {
      SpinUntil([this, &count] { return (count = ReadPackets()) != 0; });
    }
    if (count == 0 && timeout_ms != 0) {
      pollfd fds[2] = {{tun_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
      const int ready = poll(fds, 2, timeout_ms);
      if (ready > 0) {
        if (fds[1].revents != 0) DrainWake(wake_.get());
        if (fds[0].revents != 0) count = ReadPackets();
      }
    }
    if (count > 0) NoteFrames();
    const uint32_t tick = WriteTick();
    if (tick - link_read_ >= 1000) {
      link_read_ = tick;
      const int mtu = ReadMtu(control_.get(), interfaces[0].index, nullptr);
      if (mtu == -ENODEV && count == 0) return -ENODEV;
      if (mtu > 0) mtu_words()[0] = std::min(mtu, static_cast<int>(spare_bytes - kSpareLeadBytes));
    }
    return count;
  }

  int Transmit(int count) override {
    int sent = 0;
    for (int i = 0; i < count; i += 1) {
      Descriptor& frame = tx()[i];
      frame.result = Write(frame);
      if (frame.result == kTxSent) sent += 1;
    }
    WriteTick();
    return sent;
  }

  IoStatistics ReadStatistics() override {
    IoStatistics statistics;
    statistics.missed = ReadDropped();
    return statistics;
  }

  void Release() override {
    tun_.Close();
    control_.Close();
    wake_.Close();
    memory.Unmap();
  }

 private:
  // Frames, or -ENODEV when the device was deleted and nothing came before.
  int ReadPackets() {
    size_t at = packets_at_;
    int count = 0;
    while (count < kBatchFramesMax) {
      uint8_t* header = memory.at() + at + kLeadBytes - kVnetBytes;
      const ssize_t bytes = read(tun_.get(), header, kReadBytes);
      if (bytes < 0) {
        if (errno == EINTR) continue;
        // EBADFD: no device behind the descriptor any more. All others (EAGAIN when empty, EIO or
        // EFAULT while down) are "nothing now".
        if (errno == EBADFD && count == 0) return -ENODEV;
        break;
      }
      if (bytes <= static_cast<ssize_t>(kVnetBytes)) continue;
      VnetHeader vnet;
      memcpy(&vnet, header, sizeof vnet);
      const size_t packet_bytes = static_cast<size_t>(bytes) - kVnetBytes;
      Describe(&rx()[count], at + kLeadBytes, packet_bytes, 0, vnet);
      at += RoundUp(kLeadBytes + packet_bytes, kPacketStep);
      count += 1;
    }
    return count;
  }

  int32_t Write(const Descriptor& frame) const {
    if (!IsFrame(frame) || frame.interface != 0) return kTxFailed;
    uint8_t* bytes = memory.at() + frame.at;
    VnetHeader vnet = VnetOf(frame, bytes);
    iovec parts[2] = {{&vnet, sizeof vnet}, {bytes, static_cast<size_t>(frame.bytes)}};
    ssize_t written = 0;
    do {
      written = writev(tun_.get(), parts, 2);
    } while (written < 0 && errno == EINTR);
    if (written >= 0) return kTxSent;
    if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) return kTxFull;
    return errno == EMSGSIZE ? kTxTooBig : kTxFailed;
  }

  // What the kernel dropped because the queue towards us was full, from the interface's counters:
  // its tx_dropped, by netlink (RTM_GETLINK), since /sys may show another namespace.
  double ReadDropped() const {
    const Fd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    if (!netlink.ok()) return 0;
    struct {
      nlmsghdr header;
      ifinfomsg link;
    } request{};
    request.header.nlmsg_len = sizeof request;
    request.header.nlmsg_type = RTM_GETLINK;
    request.header.nlmsg_flags = NLM_F_REQUEST;
    request.link.ifi_family = AF_UNSPEC;
    request.link.ifi_index = interfaces[0].index;
    if (send(netlink.get(), &request, sizeof request, 0) < 0) return 0;
    alignas(nlmsghdr) char answer[16384];
    const ssize_t bytes = recv(netlink.get(), answer, sizeof answer, 0);
    if (bytes < static_cast<ssize_t>(NLMSG_LENGTH(sizeof(ifinfomsg)))) return 0;
    auto* header = reinterpret_cast<nlmsghdr*>(answer);
    if (header->nlmsg_type != RTM_NEWLINK) return 0;
    int left = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof(ifinfomsg)));
    auto* attribute = reinterpret_cast<rtattr*>(answer + NLMSG_LENGTH(sizeof(ifinfomsg)));
    for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
      if (attribute->rta_type != IFLA_STATS64) continue;
      rtnl_link_stats64 statistics{};
      memcpy(&statistics, RTA_DATA(attribute),
             std::min<size_t>(sizeof statistics, RTA_PAYLOAD(attribute)));
      return static_cast<double>(statistics.tx_dropped);
    }
    return 0;
  }

  Fd tun_;
  Fd wake_;
  Fd control_;
  size_t packets_at_ = 0;
  uint32_t link_read_ = 0;
};

// openTun(name, wakeFd, crew)
Napi::Value OpenTun(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsString() || !info[1].IsNumber()) {
    Throw(env, {EINVAL, "openTun", "name, wakeFd"});
    return env.Undefined();
  }
  auto* io = new TunIo();
  const std::string name = info[0].As<Napi::String>().Utf8Value();
  if (const Failure failure = io->Open(name, info[1].As<Napi::Number>().Int32Value(), ReadCrew(info[2]))) {
    delete io;
    Throw(env, failure);
    return env.Undefined();
  }
  return Napi::Value(env, MakeDevice(env, io));
}

}  // namespace

void InitTun(Napi::Env env, Napi::Object exports) {
  exports.Set("openTun", Napi::Function::New(env, OpenTun, "openTun"));
}

}  // namespace headgate

// Tunnel sockets of a backend (headgate decap): packets in tunnels come in on raw sockets (IPIP, of all
// four kinds) and on UDP sockets (GUE), and what was in them goes out to a TUN device.
//
// Sockets, and not AF_PACKET: the kernel has then checked the outer header and UDP's checksum, put
// outer fragments together, and sends no "protocol unreachable" for a protocol that somebody listens to.
//
// Memory    descriptors | packets. A descriptor is 16 int32 words (TunnelDescriptor); packet i has the
//           i-th slot, which holds the largest IP packet.
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstring>

#include "frame_io.h"
#include "parts.h"
#include "util.h"

#ifndef UDP_NO_CHECK6_RX
#define UDP_NO_CHECK6_RX 102
#endif

namespace headgate {

namespace {

constexpr int kPackets = 64;
constexpr size_t kSlotBytes = 65536 + 64;
constexpr size_t kControlBytes = 128;
constexpr int kReceiveBufferBytes = 8 << 20;

// One received packet, and what is to be written of it. src/device/tunnel.ts has the same words.
struct TunnelDescriptor {
  int32_t at;       // offset in the memory
  int32_t bytes;    // 0: nothing to write
  int32_t kind;     // place of its socket in kKinds
  int32_t tos;      // outer TOS or traffic class, where the bytes do not have the outer header
  uint32_t source[4];  // outer source, host order; IPv4: in the first word
  int32_t checksum_start;   // for the kernel to complete: from `at` on; 0: nothing to complete
  int32_t checksum_offset;
  int32_t result;   // 0 or the errno of the write
  int32_t unused[5];
};
static_assert(sizeof(TunnelDescriptor) == 64);

struct Kind {
  int family;
  int type;
  int protocol;
};

// The order is a contract with src/decap/decapsulate.ts.
constexpr std::array<Kind, 6> kKinds = {{
    {AF_INET, SOCK_RAW, IPPROTO_IPIP},
    {AF_INET, SOCK_RAW, IPPROTO_IPV6},
    {AF_INET6, SOCK_RAW, IPPROTO_IPIP},
    {AF_INET6, SOCK_RAW, IPPROTO_IPV6},
    {AF_INET, SOCK_DGRAM, IPPROTO_UDP},
    {AF_INET6, SOCK_DGRAM, IPPROTO_UDP},
}};

struct Source {
  Fd fd;
  int kind = 0;
  uint32_t overflows = 0;  // SO_RXQ_OVFL of the last packet: lost for want of room, since the start
};

int SetOption(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof value);
}

Failure OpenSocket(int kind, int port, bool zero_checksum, Source* source) {
  const Kind& of = kKinds[static_cast<size_t>(kind)];
  const bool six = of.family == AF_INET6;
  source->kind = kind;
  source->fd = Fd(socket(of.family, of.type | SOCK_CLOEXEC | SOCK_NONBLOCK, of.protocol));
  const std::string subject = std::to_string(of.type == SOCK_RAW ? of.protocol : port);
  const char* call = of.type == SOCK_RAW ? "socket(SOCK_RAW)" : "socket(SOCK_DGRAM)";
  if (!source->fd.ok()) return {errno, call, subject};
  const int fd = source->fd.get();
  if (SetOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, kReceiveBufferBytes) != 0) {
    (void)SetOption(fd, SOL_SOCKET, SO_RCVBUF, kReceiveBufferBytes);
  }
  (void)SetOption(fd, SOL_SOCKET, SO_RXQ_OVFL, 1);
  const int tos = six ? SetOption(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
                      : SetOption(fd, IPPROTO_IP, IP_RECVTOS, 1);
  if (tos != 0) return {errno, "setsockopt(TOS)", subject};
  if (six && SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) != 0 && of.type == SOCK_DGRAM) {
    return {errno, "setsockopt(IPV6_V6ONLY)", subject};
  }
  if (of.type == SOCK_RAW) return {};
  if (six && zero_checksum && SetOption(fd, IPPROTO_UDP, UDP_NO_CHECK6_RX, 1) != 0) {
    return {errno, "setsockopt(UDP_NO_CHECK6_RX)", subject};
  }
  sockaddr_storage address{};
  socklen_t bytes = sizeof(sockaddr_in);
  address.ss_family = static_cast<sa_family_t>(of.family);
  if (six) {
    bytes = sizeof(sockaddr_in6);
    reinterpret_cast<sockaddr_in6*>(&address)->sin6_port = htons(static_cast<uint16_t>(port));
  } else {
    reinterpret_cast<sockaddr_in*>(&address)->sin_port = htons(static_cast<uint16_t>(port));
  }
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), bytes) != 0) return {errno, "bind", subject};
  return {};
}

class TunnelOwner : public SharedOwner {
 public:
  Failure Open(const std::string& name, int mtu) {
    tun_ = Fd(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!tun_.ok()) return {errno, "open", "/dev/net/tun"};
    ifreq request{};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | static_cast<short>(IFF_TUN_EXCL);
    if (ioctl(tun_.get(), TUNSETIFF, &request) != 0) return {errno, "TUNSETIFF", name};
    const int header = kVnetBytes;
    if (ioctl(tun_.get(), TUNSETVNETHDRSZ, &header) != 0) return {errno, "TUNSETVNETHDRSZ", name};
    const Fd control(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!control.ok()) return {errno, "socket", name};
    ifreq link{};
    name.copy(link.ifr_name, IFNAMSIZ - 1);
    link.ifr_mtu = mtu;
    if (ioctl(control.get(), SIOCSIFMTU, &link) != 0) return {errno, "SIOCSIFMTU", name};
    const size_t bytes = RoundUp(kPacketsAt + kPackets * kSlotBytes, 4096);
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return {errno, "mmap", name};
    memory = Mapping(at, bytes);
    return {};
  }

  Failure Add(int kind, int port, bool zero_checksum) {
    return OpenSocket(kind, port, zero_checksum, &sources_[count_++]);
  }

  // Packets, after at most `timeout_ms` of waiting; a signal ends the wait too. Negative: errno.
  int Receive(int timeout_ms) {
    std::array<pollfd, kKinds.size()> fds{};
    for (size_t i = 0; i < count_; i += 1) fds[i] = {sources_[i].fd.get(), POLLIN, 0};
    const int ready = poll(fds.data(), count_, timeout_ms);
    if (ready < 0) return errno == EINTR ? 0 : -errno;
    int packets = 0;
    // Another one is first each time: no socket keeps the others from being read.
    for (size_t i = 0; i < count_ && ready > 0; i += 1) {
      const size_t one = (i + first_) % count_;
      if (fds[one].revents != 0) packets += ReadSome(&sources_[one], packets);
    }
    first_ += 1;
    return packets;
  }

  // Writes the packets of which `bytes` is not 0; how many went.
  int Deliver(int count) {
    int written = 0;
    for (int i = 0; i < count && i < kPackets; i += 1) {
      TunnelDescriptor& packet = descriptors()[i];
      if (packet.bytes == 0) continue;
      packet.result = Write(packet);
      if (packet.result == 0) written += 1;
    }
    return written;
  }

  double Overflows() const {
    double sum = 0;
    for (size_t i = 0; i < count_; i += 1) sum += sources_[i].overflows;
    return sum;
  }

  void Release() override {
    for (Source& source : sources_) source.fd.Close();
    tun_.Close();
    memory.Unmap();
  }

  Mapping memory;
  static constexpr size_t kPacketsAt = kPackets * sizeof(TunnelDescriptor);

 private:
  TunnelDescriptor* descriptors() const {
    return reinterpret_cast<TunnelDescriptor*>(memory.at());
  }

  int ReadSome(Source* source, int from) {
    const int room = kPackets - from;
    if (room <= 0) return 0;
    mmsghdr messages[kPackets] = {};
    iovec parts[kPackets];
    static thread_local sockaddr_storage names[kPackets];
    alignas(cmsghdr) static thread_local char control[kPackets][kControlBytes];
    for (int i = 0; i < room; i += 1) {
      const size_t slot = kPacketsAt + static_cast<size_t>(from + i) * kSlotBytes;
      parts[i] = {memory.at() + slot, kSlotBytes};
      msghdr& header = messages[i].msg_hdr;
      header.msg_name = &names[i];
      header.msg_namelen = sizeof names[i];
      header.msg_iov = &parts[i];
      header.msg_iovlen = 1;
      header.msg_control = control[i];
      header.msg_controllen = kControlBytes;
    }
    // Errors of a socket (ICMP that came back) are read and forgotten with the call.
    const int count =
        recvmmsg(source->fd.get(), messages, static_cast<unsigned>(room), MSG_DONTWAIT, nullptr);
    for (int i = 0; i < count; i += 1) {
      TunnelDescriptor& packet = descriptors()[from + i];
      packet = {};
      packet.at = static_cast<int32_t>(kPacketsAt + static_cast<size_t>(from + i) * kSlotBytes);
      packet.bytes = static_cast<int32_t>(messages[i].msg_len);
      packet.kind = source->kind;
      ReadName(names[i], &packet);
      ReadControl(&messages[i].msg_hdr, source, &packet);
    }
    return count < 0 ? 0 : count;
  }

  static void ReadName(const sockaddr_storage& name, TunnelDescriptor* packet) {
    if (name.ss_family == AF_INET) {
      packet->source[0] = ntohl(reinterpret_cast<const sockaddr_in&>(name).sin_addr.s_addr);
      return;
    }
    const auto& six = reinterpret_cast<const sockaddr_in6&>(name);
    for (int i = 0; i < 4; i += 1) packet->source[i] = ntohl(six.sin6_addr.s6_addr32[i]);
  }

  static void ReadControl(msghdr* header, Source* source, TunnelDescriptor* packet) {
    for (cmsghdr* one = CMSG_FIRSTHDR(header); one != nullptr; one = CMSG_NXTHDR(header, one)) {
      if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == SO_RXQ_OVFL) {
        memcpy(&source->overflows, CMSG_DATA(one), sizeof source->overflows);
      } else if (one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_TOS) {
        packet->tos = *CMSG_DATA(one);
      } else if (one->cmsg_level == IPPROTO_IPV6 && one->cmsg_type == IPV6_TCLASS) {
        memcpy(&packet->tos, CMSG_DATA(one), sizeof packet->tos);
      }
    }
  }

  int Write(const TunnelDescriptor& packet) const {
    const auto at = static_cast<size_t>(packet.at);
    const auto bytes = static_cast<size_t>(packet.bytes);
    if (packet.at < 0 || packet.bytes < 0 || at + bytes > memory.bytes()) return EINVAL;
    VnetHeader vnet{};
    if (packet.checksum_start != 0) {
      vnet.flags = 1;  // VIRTIO_NET_HDR_F_NEEDS_CSUM
      vnet.csum_start = static_cast<uint16_t>(packet.checksum_start);
      vnet.csum_offset = static_cast<uint16_t>(packet.checksum_offset);
    }
    iovec parts[2] = {{&vnet, sizeof vnet}, {memory.at() + at, bytes}};
    ssize_t written = 0;
    do {
      written = writev(tun_.get(), parts, 2);
    } while (written < 0 && errno == EINTR);
    return written < 0 ? errno : 0;
  }

  Fd tun_;
  std::array<Source, kKinds.size()> sources_;
  size_t count_ = 0;
  size_t first_ = 0;
};

TunnelOwner* OwnerOf(napi_env env, napi_callback_info info, int32_t* number, Holder** holder) {
  void* data = nullptr;
  napi_value argument = nullptr;
  size_t count = 1;
  napi_get_cb_info(env, info, &count, &argument, nullptr, &data);
  *holder = static_cast<Holder*>(data);
  *number = 0;
  if (count > 0) napi_get_value_int32(env, argument, number);
  return static_cast<TunnelOwner*>((*holder)->owner());
}

napi_value CallReceive(napi_env env, napi_callback_info info) {
  Holder* holder = nullptr;
  int32_t timeout_ms = 0;
  TunnelOwner* owner = OwnerOf(env, info, &timeout_ms, &holder);
  return MakeNumber(env, owner == nullptr ? -EBADF : owner->Receive(timeout_ms));
}

napi_value CallDeliver(napi_env env, napi_callback_info info) {
  Holder* holder = nullptr;
  int32_t count = 0;
  TunnelOwner* owner = OwnerOf(env, info, &count, &holder);
  return MakeNumber(env, owner == nullptr ? -EBADF : owner->Deliver(count));
}

napi_value CallOverflows(napi_env env, napi_callback_info info) {
  Holder* holder = nullptr;
  int32_t unused = 0;
  TunnelOwner* owner = OwnerOf(env, info, &unused, &holder);
  return MakeNumber(env, owner == nullptr ? 0 : owner->Overflows());
}

napi_value CallClose(napi_env env, napi_callback_info info) {
  Holder* holder = nullptr;
  int32_t unused = 0;
  OwnerOf(env, info, &unused, &holder);
  holder->Close();
  return nullptr;
}

// openTunnel(name, mtu, kinds, port, zeroChecksum)
Napi::Value OpenTunnel(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto* owner = new TunnelOwner();
  Failure failure = owner->Open(info[0].As<Napi::String>().Utf8Value(),
                                info[1].As<Napi::Number>().Int32Value());
  const auto kinds = info[2].As<Napi::Array>();
  const int port = info[3].As<Napi::Number>().Int32Value();
  const bool zero_checksum = info[4].As<Napi::Boolean>().Value();
  for (uint32_t i = 0; i < kinds.Length() && i < kKinds.size() && !failure; i += 1) {
    const int kind = kinds.Get(i).As<Napi::Number>().Int32Value();
    failure = kind < 0 || kind >= static_cast<int>(kKinds.size())
                  ? Failure{EINVAL, "openTunnel", "kinds"}
                  : owner->Add(kind, port, zero_checksum);
  }
  if (failure) {
    owner->Release();
    delete owner;
    Throw(env, failure);
    return env.Undefined();
  }
  Holder* holder = Holder::Make(env, owner);
  napi_value result = nullptr;
  napi_create_object(env, &result);
  napi_set_named_property(env, result, "memory",
                          holder->MakeBuffer(owner->memory.at(), owner->memory.bytes()));
  AddFunction(env, result, "receive", CallReceive, holder);
  AddFunction(env, result, "deliver", CallDeliver, holder);
  AddFunction(env, result, "overflows", CallOverflows, holder);
  AddFunction(env, result, "close", CallClose, holder);
  holder->DropReference();
  return Napi::Value(env, result);
}

}  // namespace

void InitTunnel(Napi::Env env, Napi::Object exports) {
  exports.Set("openTunnel", Napi::Function::New(env, OpenTunnel, "openTunnel"));
}

}  // namespace headgate

// ICMP echo for health checks, of both families: one socket a family, opened while the process may.
//
// A raw socket needs CAP_NET_RAW; it sees every ICMP message to the host, so filters in the kernel
// leave it only echo replies with its own identifier. Where that is not allowed, an ICMP datagram socket
// does (net.ipv4.ping_group_range, which is for both families); there the kernel gives the identifier.
// Both stay usable when the process has given up its rights. Nothing here waits.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <linux/filter.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "parts.h"
#include "util.h"

namespace headgate {

namespace {

// Identifier and sequence number follow type, code and checksum, in both families (RFC 792, RFC 4443).
struct EchoHeader {
  uint8_t type;
  uint8_t code;
  uint16_t checksum;
  uint16_t identifier;
  uint16_t sequence;
};
static_assert(sizeof(EchoHeader) == 8);
constexpr size_t kPayloadBytesMax = 1400;
constexpr size_t kIpv4HeaderBytesMax = 60;

struct EchoSocket {
  Fd fd;
  bool isRaw = false;
  int code = 0;  // why it could not be opened
};

uint16_t Checksum(const uint8_t* at, size_t bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < bytes; i += 2) sum += static_cast<uint32_t>(at[i] << 8 | at[i + 1]);
  if (bytes % 2 != 0) sum += static_cast<uint32_t>(at[bytes - 1] << 8);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return htons(static_cast<uint16_t>(~sum));
}

// Lets echo replies with this identifier through, and nothing else.
bool Filter(int fd, int family, uint16_t identifier) {
  const uint8_t reply = family == AF_INET ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;
  // IPv4: X is the length of the IP header in front of the message; IPv6: there is none in front.
  const sock_filter length = family == AF_INET
                                 ? sock_filter BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0)
                                 : sock_filter BPF_STMT(BPF_LDX | BPF_W | BPF_IMM, 0);
  std::array<sock_filter, 7> code{{
      length,
      BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, reply, 0, 3),
      BPF_STMT(BPF_LD | BPF_H | BPF_IND, offsetof(EchoHeader, identifier)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, identifier, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0xffff),
      BPF_STMT(BPF_RET | BPF_K, 0),
  }};
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0;
}

EchoSocket Open(int family, uint16_t identifier) {
  const int protocol = family == AF_INET ? static_cast<int>(IPPROTO_ICMP) : IPPROTO_ICMPV6;
  EchoSocket opened;
  opened.fd = Fd(socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
  if (opened.fd.ok()) {
    opened.isRaw = true;
    if (Filter(opened.fd.get(), family, identifier)) return opened;
    opened.code = errno;
    opened.fd.Close();
    return opened;
  }
  if (errno == EPERM || errno == EACCES) {
    opened.fd = Fd(socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
  }
  if (!opened.fd.ok()) opened.code = errno;
  return opened;
}

class EchoOwner : public SharedOwner {
 public:
  EchoOwner()
      : identifier(static_cast<uint16_t>(getpid())),
        four(Open(AF_INET, identifier)),
        six(Open(AF_INET6, identifier)) {}
  void Release() override {
    four.fd.Close();
    six.fd.Close();
  }
  uint16_t identifier;
  uint16_t sequence = 0;
  EchoSocket four;
  EchoSocket six;
};

// Data that says from which address a message goes.
template <typename Info>
void SetSource(msghdr* message, int level, int type, const Info& info) {
  cmsghdr* control = CMSG_FIRSTHDR(message);
  control->cmsg_level = level;
  control->cmsg_type = type;
  control->cmsg_len = CMSG_LEN(sizeof info);
  memcpy(CMSG_DATA(control), &info, sizeof info);
  message->msg_controllen = CMSG_SPACE(sizeof info);
}

// 0, or a negative errno.
int Send(EchoOwner* owner, const std::string& address, const std::string& source,
         const uint8_t* payload, size_t bytes) {
  if (bytes > kPayloadBytesMax) return -EMSGSIZE;
  sockaddr_in to4{};
  sockaddr_in6 to6{};
  const bool isFour = inet_pton(AF_INET, address.c_str(), &to4.sin_addr) == 1;
  if (!isFour && inet_pton(AF_INET6, address.c_str(), &to6.sin6_addr) != 1) return -EINVAL;
  to4.sin_family = AF_INET;
  to6.sin6_family = AF_INET6;
  const EchoSocket& used = isFour ? owner->four : owner->six;
  if (!used.fd.ok()) return -(used.code == 0 ? EBADF : used.code);

  std::array<uint8_t, sizeof(EchoHeader) + kPayloadBytesMax> packet{};
  const size_t length = sizeof(EchoHeader) + bytes;
  EchoHeader header{};
  header.type = isFour ? ICMP_ECHO : ICMPV6_ECHO_REQUEST;
  header.identifier = htons(owner->identifier);
  header.sequence = htons(owner->sequence++);
  memcpy(packet.data(), &header, sizeof header);
  memcpy(packet.data() + sizeof header, payload, bytes);
  // ICMPv6 has the addresses in its checksum: the kernel completes it (RFC 3542 section 3.1).
  if (isFour) header.checksum = Checksum(packet.data(), length);
  memcpy(packet.data(), &header, sizeof header);

  iovec part{packet.data(), length};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(in6_pktinfo))> control{};
  msghdr message{};
  message.msg_name = isFour ? static_cast<void*>(&to4) : static_cast<void*>(&to6);
  message.msg_namelen = isFour ? sizeof to4 : sizeof to6;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!source.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    in_pktinfo from4{};
    in6_pktinfo from6{};
    if (isFour && inet_pton(AF_INET, source.c_str(), &from4.ipi_spec_dst) == 1) {
      SetSource(&message, IPPROTO_IP, IP_PKTINFO, from4);
    } else if (!isFour && inet_pton(AF_INET6, source.c_str(), &from6.ipi6_addr) == 1) {
      SetSource(&message, IPPROTO_IPV6, IPV6_PKTINFO, from6);
    } else {
      return -EINVAL;
    }
  }
  return sendmsg(used.fd.get(), &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

// Bytes of the payload of the next reply, written to `into`; -EAGAIN when there is none.
int ReceiveFrom(const EchoSocket& socket, int family, uint16_t identifier, uint8_t* into,
                size_t room) {
  std::array<uint8_t, kIpv4HeaderBytesMax + sizeof(EchoHeader) + kPayloadBytesMax> packet;
  for (;;) {
    const ssize_t length = recv(socket.fd.get(), packet.data(), packet.size(), 0);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) return -errno;
    size_t at = 0;
    if (family == AF_INET && socket.isRaw) at = static_cast<size_t>(packet[0] & 0x0f) * 4;
    if (static_cast<size_t>(length) < at + sizeof(EchoHeader)) continue;
    EchoHeader header{};
    memcpy(&header, packet.data() + at, sizeof header);
    const uint8_t reply = family == AF_INET ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;
    if (header.type != reply) continue;
    if (socket.isRaw && ntohs(header.identifier) != identifier) continue;
    at += sizeof header;
    const size_t bytes = std::min(static_cast<size_t>(length) - at, room);
    memcpy(into, packet.data() + at, bytes);
    return static_cast<int>(bytes);
  }
}

EchoOwner* OwnerOf(const Napi::CallbackInfo& info) {
  return static_cast<EchoOwner*>(static_cast<Holder*>(info.Data())->owner());
}

// send(address, source, payload): 0 or a negative errno; source "": the host's choice.
Napi::Value CallSend(const Napi::CallbackInfo& info) {
  EchoOwner* owner = OwnerOf(info);
  int result = -EBADF;
  if (owner != nullptr) {
    auto payload = info[2].As<Napi::Uint8Array>();
    result = Send(owner, info[0].As<Napi::String>().Utf8Value(),
                  info[1].As<Napi::String>().Utf8Value(), payload.Data(), payload.ByteLength());
  }
  return Napi::Number::New(info.Env(), result);
}

// receive(into): bytes of the next reply's payload, or a negative errno (-EAGAIN: none).
Napi::Value CallReceive(const Napi::CallbackInfo& info) {
  EchoOwner* owner = OwnerOf(info);
  int result = -EBADF;
  if (owner != nullptr) {
    auto into = info[0].As<Napi::Uint8Array>();
    const auto from = [&](const EchoSocket& socket, int family) {
      if (!socket.fd.ok()) return -EAGAIN;
      return ReceiveFrom(socket, family, owner->identifier, into.Data(), into.ByteLength());
    };
    result = from(owner->four, AF_INET);
    if (result < 0) result = from(owner->six, AF_INET6);
  }
  return Napi::Number::New(info.Env(), result);
}

Napi::Value CallClose(const Napi::CallbackInfo& info) {
  static_cast<Holder*>(info.Data())->Close();
  return info.Env().Undefined();
}

// openEcho(): { kind4, kind6, send, receive, close }; a kind is 2 raw, 1 datagram, or a negative errno.
Napi::Value OpenEcho(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto* owner = new EchoOwner();
  const auto kind = [](const EchoSocket& socket) {
    return socket.fd.ok() ? (socket.isRaw ? 2 : 1) : -socket.code;
  };
  const int kind4 = kind(owner->four);
  const int kind6 = kind(owner->six);
  Holder* holder = Holder::Make(env, owner);
  Napi::Object result = Napi::Object::New(env);
  result.Set("kind4", Napi::Number::New(env, kind4));
  result.Set("kind6", Napi::Number::New(env, kind6));
  const auto add = [&](const char* name, auto callback) {
    Napi::Function function = Napi::Function::New(env, callback, name, holder);
    holder->KeptBy(function);
    result.Set(name, function);
  };
  add("send", CallSend);
  add("receive", CallReceive);
  add("close", CallClose);
  holder->DropReference();
  return result;
}

}  // namespace

void InitEcho(Napi::Env env, Napi::Object exports) {
  exports.Set("openEcho", Napi::Function::New(env, OpenEcho, "openEcho"));
}

}  // namespace headgate

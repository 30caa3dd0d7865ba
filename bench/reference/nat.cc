// The work of the fast path in C++, on the same frames: what `npm run bench -- memory` is compared
// with. bench/memory/reference.ts writes its input, builds it with -O3 and runs it.
//
//   nat INPUT OUTPUT
//     Reads flows, backends, services and frames, puts the flows into a table of its own (records of
//     64 bytes, buckets of eight, HalfSipHash-1-3), runs all frames once and writes what it sends to
//     OUTPUT; prints "ready". Then, for every line "PASSES" on standard input: runs all frames so
//     many times and prints {"nsPerFrame":…,"forwarded":…}. It ends with standard input.
//
// It does for a frame of a known flow what src/datapath does: link, IPv4 header with its checksum,
// TCP or UDP header, look-up, whether the backend gives the flow up, TCP state and timer, last hop,
// next hop, MTU, addresses, ports, both checksums, TTL, MACs, four counters of backend and service,
// verdict. Where the fast path would go on with a frame that is not of this kind (fragments, ICMP,
// no flow, a packet too large), this has the test and a counted drop. The sweep for expired flows
// runs as there: a thousandth of the table a millisecond.
//
// It is a measuring instrument: errors end it.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <initializer_list>

namespace {

// The input's layout; bench/memory/reference.ts writes it.
constexpr int32_t kMagic = 0x46524748;
constexpr int32_t kVersion = 1;
struct Header {
  int32_t magic, version, flows, frames, services, backends, capacity, window;
  uint32_t secret[2];
  int32_t reserved[6];
};
constexpr size_t kKinds = 6;
constexpr size_t kStride = 16;
constexpr size_t kStates = 16;
struct Interface {
  int32_t mtu, mac_high, mac_low, up;
};
// A slot number has 20 bits in a flow, its generation the other 12 (src/flow/flow-record.ts).
constexpr int kSlotBits = 20;
constexpr uint32_t kSlotMask = (1u << kSlotBits) - 1;
constexpr uint32_t kGenerationMask = (1u << (32 - kSlotBits)) - 1;
struct BackendInput {
  int32_t generation, existing, service, interface, mtu, mac_high, mac_low, deadline;
};

// One flow: sixteen words, a cache line.
struct Flow {
  uint32_t version;
  uint32_t state;  // state | protocol << 8 | mode << 16 | flags << 24
  uint32_t client, vip, client_vip_ports;
  uint32_t backend, reply, backend_reply_ports;
  uint32_t slot;  // backend slot | generation << kSlotBits
  int32_t expires;
  uint32_t delta;  // addresses << 16 | addresses and ports
  uint32_t hop_high, hop_low;
  int32_t created;
  uint32_t ack_original, ack_reply;
};
static_assert(sizeof(Flow) == 64, "a flow is a cache line");

constexpr size_t kEntries = 8;
struct Bucket {
  uint32_t hash[kEntries];
  uint32_t reference[kEntries];  // 0: empty, else (row << 1 | direction) + 1
};
static_assert(sizeof(Bucket) == 64, "a bucket is a cache line");

struct Backend {
  uint32_t generation;
  int32_t existing, deadline;
  uint32_t service;
  int32_t active;
  double packets[2], bytes[2];
};
struct Service {
  int32_t timeouts[kStates];
  double packets[2], bytes[2];
};
struct Hop {
  int32_t flags, interface, mtu;
  uint32_t mac_high, mac_low;
};

// A frame as the store keeps it: ingress, length, up to 62 bytes.
constexpr size_t kStoreBytes = 64;
constexpr size_t kSlotBytes = 2048;
constexpr size_t kFrameAt = 50;
constexpr size_t kBatch = 64;

// One received or sent frame: eight words, as the device's descriptors have.
struct Descriptor {
  int32_t at, bytes, interface, vnet, csum, from, result, user;
};

enum Verdict { kForwarded, kPassed, kDropped };
enum Drop {
  kTooShort = 1, kHeader, kChecksum, kLength, kSource, kOptions, kFragment, kTcp, kTcpFlags, kUdp, kProtocol,
  kNoFlow, kBackendGone, kNewFlow, kNoNeighbour, kTtl, kTooBig, kVnet, kDrops
};
constexpr int kUnknown = -1;

constexpr uint32_t kTcpNumber = 6;
constexpr uint32_t kUdpNumber = 17;
constexpr uint32_t kFinOriginal = 1u << 25;
constexpr uint32_t kFinReply = 1u << 26;
constexpr uint32_t kActive = 1u << 28;
constexpr uint32_t kStateEstablished = 3;
constexpr uint32_t kUdpOneWay = 9;
constexpr uint32_t kUdpReplied = 10;
constexpr uint32_t kGolden = 0x9e3779b1;
constexpr int32_t kSweepRowsMax = 4096;

[[noreturn]] void Die(const char* what) {
  fprintf(stderr, "nat: %s: %s\n", what, strerror(errno));
  exit(1);
}

double Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

constexpr size_t kHugePageBytes = 2 << 20;
// Since Linux 6.1, newer than the headers of some distributions.
constexpr int kMadviseCollapse = 25;

// Memory of the kind that the gateway's state lies in: pages of tmpfs, touched, huge where they can be.
template <typename T>
T* Map(size_t count) {
  const size_t bytes = (count * sizeof(T) + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  const int fd = memfd_create("nat", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) Die("memfd");
  void* reserved = mmap(nullptr, bytes + kHugePageBytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) Die("mmap");
  const size_t before = -reinterpret_cast<uintptr_t>(reserved) & (kHugePageBytes - 1);
  void* at = mmap(static_cast<uint8_t*>(reserved) + before, bytes, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0);
  if (at == MAP_FAILED) Die("mmap");
  madvise(at, bytes, kMadviseCollapse);
  close(fd);
  return static_cast<T*>(at);
}

inline uint32_t Get16(const uint8_t* at) {
  uint16_t value;
  memcpy(&value, at, 2);
  return __builtin_bswap16(value);
}
inline uint32_t Get32(const uint8_t* at) {
  uint32_t value;
  memcpy(&value, at, 4);
  return __builtin_bswap32(value);
}
inline void Put16(uint8_t* at, uint32_t value) {
  const uint16_t swapped = __builtin_bswap16(static_cast<uint16_t>(value));
  memcpy(at, &swapped, 2);
}
inline void Put32(uint8_t* at, uint32_t value) {
  const uint32_t swapped = __builtin_bswap32(value);
  memcpy(at, &swapped, 4);
}

inline uint32_t Fold(uint32_t sum) {
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}
// RFC 1624 eqn 3.
inline uint32_t Update(uint32_t checksum, uint32_t delta) {
  const uint32_t sum = (~checksum & 0xffff) + delta;
  return ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
}

inline uint32_t Rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

// HalfSipHash-1-3 of four words (github.com/veorq/SipHash, halfsiphash.c).
inline uint32_t Hash(uint32_t k0, uint32_t k1, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  uint32_t v0 = k0, v1 = k1, v2 = 0x6c796765 ^ k0, v3 = 0x74656462 ^ k1;
  const auto round = [&]() {
    v0 += v1; v1 = Rotate(v1, 5) ^ v0; v0 = Rotate(v0, 16);
    v2 += v3; v3 = Rotate(v3, 8) ^ v2;
    v0 += v3; v3 = Rotate(v3, 7) ^ v0;
    v2 += v1; v1 = Rotate(v1, 13) ^ v2; v2 = Rotate(v2, 16);
  };
  for (const uint32_t word : {a, b, c, d, 16u << 24}) {
    v3 ^= word;
    round();
    v0 ^= word;
  }
  v2 ^= 0xff;
  round();
  round();
  round();
  return v1 ^ v3;
}

class Nat {
 public:
  Nat(const Header& header, const uint8_t* input);
  void Load(const uint8_t* store, size_t first, size_t count);
  // Runs the batch that comes next of the window; 0: there is none.
  size_t RunBatch(int32_t tick, uint8_t* capture);
  uint64_t forwarded = 0;
  uint64_t passed = 0;
  uint64_t drops[kDrops] = {};

 private:
  int Process(Descriptor& frame);
  int Ipv4(Descriptor& frame, uint8_t* ip, uint32_t bytes);
  int Transport(Descriptor& frame, uint8_t* ip, uint8_t* l4, uint32_t protocol, uint32_t total);
  int Send(Descriptor& frame, uint8_t* ip, uint8_t* l4, Flow& flow, uint32_t direction, uint32_t protocol,
           uint32_t total);
  void Rewrite(uint8_t* ip, uint8_t* l4, const Flow& flow, uint32_t direction, uint32_t protocol);
  int32_t Find(uint32_t hash, uint32_t protocol, uint32_t source, uint32_t destination, uint32_t ports) const;
  void Fetch(size_t count);
  int32_t FindIn(const Bucket& bucket, uint32_t hash, uint32_t protocol, uint32_t source,
                 uint32_t destination, uint32_t ports) const;
  void Index(uint32_t hash, uint32_t reference);
  void Enter(Flow& flow, Backend& backend, uint32_t state);
  void Sweep();
  Bucket& First(uint32_t hash) const { return buckets_[hash & mask_]; }
  Bucket& Second(uint32_t hash) const {
    const uint32_t bucket = (hash * kGolden) >> shift_;
    return buckets_[bucket == (hash & mask_) ? bucket ^ 1 : bucket];
  }

  Header header_;
  int8_t next_[2 * kKinds * kStride];
  Interface interfaces_[2];
  Service* services_;
  Backend* backends_;
  Hop* hops_;
  Flow* flows_;
  Bucket* buckets_;
  uint32_t mask_;
  int shift_;
  uint8_t* memory_;
  int32_t lengths_[4096], ingress_[4096];
  size_t first_ = 0, taken_ = 0, loaded_ = 0;
  Descriptor rx_[kBatch], tx_[2 * kBatch];
  size_t tx_count_ = 0;
  int32_t tick_ = 0, sweep_tick_ = 0, sweep_owed_ = 0, sweep_cursor_ = 0;
  uint64_t expired_ = 0;
};

Nat::Nat(const Header& header, const uint8_t* input) : header_(header) {
  const auto take = [&input](void* to, size_t bytes) {
    memcpy(to, input, bytes);
    input += bytes;
  };
  take(next_, sizeof next_);
  take(interfaces_, sizeof interfaces_);
  services_ = Map<Service>(static_cast<size_t>(header.services));
  for (int32_t i = 0; i < header.services; i += 1) take(services_[i].timeouts, sizeof services_[i].timeouts);
  backends_ = Map<Backend>(static_cast<size_t>(header.backends));
  hops_ = Map<Hop>(static_cast<size_t>(header.backends));
  for (int32_t i = 0; i < header.backends; i += 1) {
    BackendInput one;
    take(&one, sizeof one);
    backends_[i].generation = static_cast<uint32_t>(one.generation);
    backends_[i].existing = one.existing;
    backends_[i].deadline = one.deadline;
    backends_[i].service = static_cast<uint32_t>(one.service);
    hops_[i] = {3, one.interface, one.mtu, static_cast<uint32_t>(one.mac_high), static_cast<uint32_t>(one.mac_low)};
  }
  size_t buckets = 2;
  while (buckets * kEntries < static_cast<size_t>(header.capacity) * 4) buckets *= 2;
  mask_ = static_cast<uint32_t>(buckets - 1);
  shift_ = 32 - __builtin_ctzl(buckets);
  flows_ = Map<Flow>(static_cast<size_t>(header.capacity));
  buckets_ = Map<Bucket>(buckets);
  take(flows_, sizeof(Flow) * static_cast<size_t>(header.flows));
  for (uint32_t row = 0; row < static_cast<uint32_t>(header.flows); row += 1) {
    const Flow& flow = flows_[row];
    const uint32_t protocol = flow.state >> 8 & 0xff;
    const uint32_t* k = header.secret;
    Index(Hash(k[0], k[1], protocol, flow.client, flow.vip, flow.client_vip_ports), row << 1);
    Index(Hash(k[0], k[1], protocol, flow.backend, flow.reply, flow.backend_reply_ports), row << 1 | 1);
  }
  memory_ = static_cast<uint8_t*>(aligned_alloc(4096, static_cast<size_t>(header.window) * kSlotBytes));
  if (memory_ == nullptr || header.window > 4096) Die("window");
  memset(memory_, 0, static_cast<size_t>(header.window) * kSlotBytes);
}

// The first bucket until six of its eight entries are taken, then the emptier of the two.
void Nat::Index(uint32_t hash, uint32_t reference) {
  const auto room = [](const Bucket& bucket, size_t* entry) {
    size_t free = 0;
    for (size_t i = kEntries; i > 0; i -= 1) {
      if (bucket.reference[i - 1] != 0) continue;
      free += 1;
      *entry = i - 1;
    }
    return free;
  };
  size_t entry = 0, other = 0;
  Bucket* bucket = &First(hash);
  const size_t free = room(*bucket, &entry);
  if (free <= 2 && room(Second(hash), &other) > free) {
    bucket = &Second(hash);
    entry = other;
  } else if (free == 0) {
    Die("both buckets are full");
  }
  bucket->hash[entry] = hash;
  bucket->reference[entry] = reference + 1;
}

inline int32_t Nat::FindIn(const Bucket& bucket, uint32_t hash, uint32_t protocol, uint32_t source,
                           uint32_t destination, uint32_t ports) const {
  for (size_t i = 0; i < kEntries; i += 1) {
    if (bucket.hash[i] != hash || bucket.reference[i] == 0) continue;
    const uint32_t reference = bucket.reference[i] - 1;
    const Flow& flow = flows_[reference >> 1];
    if ((flow.version & 1) != 0 || (flow.state & 0xff) == 0 || (flow.state >> 8 & 0xff) != protocol) continue;
    const bool same = (reference & 1) == 0 ? flow.client == source && flow.vip == destination &&
                                                 flow.client_vip_ports == ports
                                           : flow.backend == source && flow.reply == destination &&
                                                 flow.backend_reply_ports == ports;
    if (same) return static_cast<int32_t>(reference);
  }
  return kUnknown;
}

inline int32_t Nat::Find(uint32_t hash, uint32_t protocol, uint32_t source, uint32_t destination,
                         uint32_t ports) const {
  const int32_t found = FindIn(First(hash), hash, protocol, source, destination, ports);
  return found >= 0 ? found : FindIn(Second(hash), hash, protocol, source, destination, ports);
}

inline int Drop(enum Drop reason) { return kDropped | reason << 8; }

inline int Nat::Process(Descriptor& frame) {
  uint8_t* at = memory_ + frame.at;
  if (frame.bytes < 14) return Drop(kTooShort);
  const Interface& own = interfaces_[frame.interface];
  if (Get32(at) != static_cast<uint32_t>(own.mac_high) || Get16(at + 4) != static_cast<uint32_t>(own.mac_low) ||
      Get16(at + 12) != 0x0800) {
    return kPassed;
  }
  return Ipv4(frame, at + 14, static_cast<uint32_t>(frame.bytes) - 14);
}

inline int Nat::Ipv4(Descriptor& frame, uint8_t* ip, uint32_t bytes) {
  if (bytes < 20) return Drop(kTooShort);
  const uint32_t header = (ip[0] & 15u) * 4;
  if (ip[0] >> 4 != 4 || header < 20 || header > bytes) return Drop(kHeader);
  uint32_t sum = 0;
  for (uint32_t i = 0; i < 20; i += 4) {
    const uint32_t word = Get32(ip + i);
    sum += (word >> 16) + (word & 0xffff);
  }
  for (uint32_t i = 20; i < header; i += 2) sum += Get16(ip + i);
  if (Fold(sum) != 0xffff) return Drop(kChecksum);
  const uint32_t total = Get16(ip + 2);
  if (total < header || total > bytes) return Drop(kLength);
  if (header != 20) return Drop(kOptions);
  const uint32_t network = ip[12];
  if (network == 0 || network == 127 || network >= 224) return Drop(kSource);
  if ((Get16(ip + 6) & 0x3fff) != 0) return Drop(kFragment);
  uint8_t* l4 = ip + header;
  const uint32_t l4_bytes = total - header;
  const uint32_t protocol = ip[9];
  if (protocol == kTcpNumber) {
    if (l4_bytes < 20) return Drop(kTcp);
    const uint32_t tcp = (l4[12] >> 4) * 4u;
    if (tcp < 20 || tcp > l4_bytes) return Drop(kTcp);
    // SYN, SYN ACK, RST, RST ACK, FIN ACK, ACK; with URG: SYN, FIN ACK, ACK.
    constexpr uint32_t kPlain = 1u << 2 | 1u << 18 | 1u << 4 | 1u << 20 | 1u << 17 | 1u << 16;
    constexpr uint32_t kUrgent = 1u << 2 | 1u << 17 | 1u << 16;
    const uint32_t flags = l4[13];
    const uint32_t valid = (flags & 32) == 0 ? kPlain : kUrgent;
    if ((valid >> (flags & 0x17) & 1) == 0) return Drop(kTcpFlags);
  } else if (protocol == kUdpNumber) {
    if (l4_bytes < 8) return Drop(kUdp);
    const uint32_t length = Get16(l4 + 4);
    if (length < 8 || length > l4_bytes) return Drop(kUdp);
  } else {
    return Drop(kProtocol);
  }
  if (frame.vnet != 0) return Drop(kVnet);
  return Transport(frame, ip, l4, protocol, total);
}

inline void Nat::Enter(Flow& flow, Backend& backend, uint32_t state) {
  uint32_t word = (flow.state & ~0xffu) | state;
  if (state == kStateEstablished || state == kUdpReplied) {
    if ((word & kActive) == 0) backend.active += 1;
    word |= kActive;
  } else if ((word & kActive) != 0) {
    backend.active -= 1;
    word &= ~kActive;
  }
  flow.state = word;
  flow.expires = tick_ + services_[backend.service].timeouts[state];
}

inline int Nat::Transport(Descriptor& frame, uint8_t* ip, uint8_t* l4, uint32_t protocol, uint32_t total) {
  uint32_t hash = static_cast<uint32_t>(frame.user);
  if (hash == 0) hash = Hash(header_.secret[0], header_.secret[1], protocol, Get32(ip + 12), Get32(ip + 16), Get32(l4));
  const int32_t reference = Find(hash, protocol, Get32(ip + 12), Get32(ip + 16), Get32(l4));
  if (reference < 0) return Drop(kNoFlow);
  Flow& flow = flows_[reference >> 1];
  const uint32_t direction = reference & 1;
  Backend& backend = backends_[flow.slot & kSlotMask];
  if ((backend.generation & kGenerationMask) != flow.slot >> kSlotBits || backend.existing == 2 ||
      (backend.existing == 1 && tick_ - backend.deadline >= 0)) {
    return Drop(kBackendGone);
  }
  const uint32_t state = flow.state & 0xff;
  if (protocol == kTcpNumber) {
    const uint32_t flags = l4[13];
    uint32_t kind = (flags & 4) != 0 ? 4 : (flags & 2) != 0 ? ((flags & 16) != 0 ? 1 : 0)
                  : (flags & 1) != 0 ? 2 : (flags & 16) != 0 ? 3 : 5;
    if (kind == 2) {
      const uint32_t seen = direction == 0 ? kFinOriginal : kFinReply;
      if ((flow.state & seen) != 0) kind = 3;
      flow.state |= seen;
    }
    const int next = next_[(direction * kKinds + kind) * kStride + (state & 15)];
    if (next == -3) return Drop(kNewFlow);
    if ((flags & 16) != 0) (direction == 0 ? flow.ack_original : flow.ack_reply) = Get32(l4 + 8);
    if (next >= 0) {
      if (static_cast<uint32_t>(next) != state) Enter(flow, backend, static_cast<uint32_t>(next));
      else flow.expires = tick_ + services_[backend.service].timeouts[state];
    }
  } else {
    const uint32_t next = direction == 0 && state == kUdpOneWay ? state : kUdpReplied;
    if (next != state) Enter(flow, backend, next);
    else flow.expires = tick_ + services_[backend.service].timeouts[state];
  }
  return Send(frame, ip, l4, flow, direction, protocol, total);
}

inline void Nat::Rewrite(uint8_t* ip, uint8_t* l4, const Flow& flow, uint32_t direction, uint32_t protocol) {
  uint32_t addresses = flow.delta >> 16;
  uint32_t all = flow.delta & 0xffff;
  if (direction == 0) {
    Put32(ip + 12, flow.reply);
    Put32(ip + 16, flow.backend);
    Put32(l4, Rotate(flow.backend_reply_ports, 16));
  } else {
    Put32(ip + 12, flow.vip);
    Put32(ip + 16, flow.client);
    Put32(l4, Rotate(flow.client_vip_ports, 16));
    addresses ^= 0xffff;
    all ^= 0xffff;
  }
  Put16(ip + 10, Update(Get16(ip + 10), addresses));
  uint8_t* field = l4 + (protocol == kTcpNumber ? 16 : 6);
  const uint32_t checksum = Get16(field);
  if (protocol == kTcpNumber) {
    Put16(field, Update(checksum, all));
  } else if (checksum != 0) {
    const uint32_t updated = Update(checksum, all);
    Put16(field, updated == 0 ? 0xffff : updated);
  }
  // TTL less one, and what that is in the checksum.
  ip[8] -= 1;
  Put16(ip + 10, Update(Get16(ip + 10), 0xfeff));
}

inline int Nat::Send(Descriptor& frame, uint8_t* ip, uint8_t* l4, Flow& flow, uint32_t direction,
                     uint32_t protocol, uint32_t total) {
  const uint32_t slot = flow.slot & kSlotMask;
  uint8_t* link = ip - 14;
  int32_t egress, mtu;
  uint32_t mac_high, mac_low;
  if (direction == 0) {
    const uint32_t high = Get32(link + 6);
    const uint32_t low = Get16(link + 10) << 16 | static_cast<uint32_t>(frame.interface);
    if (flow.hop_high != high || flow.hop_low != low) {
      flow.version |= 1;
      flow.hop_high = high;
      flow.hop_low = low;
      flow.version += 1;
    }
    const Hop& hop = hops_[slot];
    if (hop.flags != 3) return Drop(kNoNeighbour);
    egress = hop.interface;
    mtu = hop.mtu;
    mac_high = hop.mac_high;
    mac_low = hop.mac_low;
  } else {
    egress = flow.hop_low & 0xffff;
    if (egress >= 2) return Drop(kNoNeighbour);
    mtu = interfaces_[egress].mtu;
    mac_high = flow.hop_high;
    mac_low = flow.hop_low >> 16;
  }
  if (ip[8] <= 1) return Drop(kTtl);
  if (mtu != 0 && static_cast<int32_t>(total) > mtu) return Drop(kTooBig);
  Rewrite(ip, l4, flow, direction, protocol);
  const Interface& own = interfaces_[egress];
  Put32(link, mac_high);
  Put16(link + 4, mac_low);
  Put32(link + 6, static_cast<uint32_t>(own.mac_high));
  Put16(link + 10, static_cast<uint32_t>(own.mac_low));
  frame.bytes = static_cast<int32_t>(14 + total);
  const int32_t index = static_cast<int32_t>(&frame - rx_);
  tx_[tx_count_] = {frame.at, frame.bytes, egress, frame.vnet, frame.csum, index, 3, index};
  tx_count_ += 1;
  Backend& backend = backends_[slot];
  Service& service = services_[backend.service];
  backend.packets[direction] += 1;
  backend.bytes[direction] += total;
  service.packets[direction] += 1;
  service.bytes[direction] += total;
  return kForwarded;
}

void Nat::Sweep() {
  const int32_t elapsed = tick_ - sweep_tick_;
  if (elapsed == 0) return;
  sweep_tick_ = tick_;
  const int32_t ms = elapsed < 0 || elapsed > 1000 ? 1000 : elapsed;
  const int64_t owed = sweep_owed_ + static_cast<int64_t>(ms) * header_.flows;
  int32_t rows = static_cast<int32_t>(owed / 1000);
  if (rows >= kSweepRowsMax) {
    rows = kSweepRowsMax;
    sweep_owed_ = 0;
  } else {
    sweep_owed_ = static_cast<int32_t>(owed - static_cast<int64_t>(rows) * 1000);
  }
  for (; rows > 0; rows -= 1) {
    if (sweep_cursor_ >= header_.flows) sweep_cursor_ = 0;
    const Flow& flow = flows_[sweep_cursor_];
    if ((flow.state & 0xff) != 0 && flow.expires - tick_ <= 0) expired_ += 1;
    sweep_cursor_ += 1;
  }
}

void Nat::Load(const uint8_t* store, size_t first, size_t count) {
  for (size_t i = 0; i < count; i += 1) {
    const uint8_t* from = store + (first + i) * kStoreBytes;
    memcpy(memory_ + i * kSlotBytes + kFrameAt - 2, from, kStoreBytes);
    ingress_[i] = from[0];
    lengths_[i] = from[1];
  }
  first_ = first;
  taken_ = 0;
  loaded_ = count;
}

// What the gateway's fast lane does before it looks at a flow, with the instruction that C has for it:
// the buckets of a whole batch are on their way at once, then the records. The hash stays in `user`.
void Nat::Fetch(size_t count) {
  for (size_t i = 0; i < count; i += 1) {
    const uint8_t* ip = memory_ + rx_[i].at + 14;
    const bool plain = rx_[i].bytes >= 42 && Get16(ip - 2) == 0x0800 && ip[0] == 0x45 &&
                       (ip[9] == kTcpNumber || ip[9] == kUdpNumber);
    if (!plain) continue;
    const uint32_t hash =
        Hash(header_.secret[0], header_.secret[1], ip[9], Get32(ip + 12), Get32(ip + 16), Get32(ip + 20));
    rx_[i].user = static_cast<int32_t>(hash);
    __builtin_prefetch(&First(hash));
  }
  for (size_t i = 0; i < count; i += 1) {
    const uint32_t hash = static_cast<uint32_t>(rx_[i].user);
    if (hash == 0) continue;
    const Bucket& bucket = First(hash);
    for (size_t entry = 0; entry < kEntries; entry += 1) {
      if (bucket.hash[entry] != hash || bucket.reference[entry] == 0) continue;
      __builtin_prefetch(&flows_[(bucket.reference[entry] - 1) >> 1], 1);
      break;
    }
  }
}

size_t Nat::RunBatch(int32_t tick, uint8_t* capture) {
  size_t count = loaded_ - taken_;
  if (count > kBatch) count = kBatch;
  for (size_t i = 0; i < count; i += 1) {
    const size_t slot = taken_ + i;
    rx_[i] = {static_cast<int32_t>(slot * kSlotBytes + kFrameAt), lengths_[slot], ingress_[slot], 0, 0, 0, 0, 0};
  }
  tick_ = tick;
  tx_count_ = 0;
  Fetch(count);
  for (size_t i = 0; i < count; i += 1) {
    rx_[i].from = rx_[i].bytes;
    rx_[i].user = Process(rx_[i]);
  }
  Sweep();
  for (size_t i = 0; i < tx_count_; i += 1) {
    tx_[i].result = 0;
    if (capture == nullptr) continue;
    uint8_t* to = capture + (first_ + taken_ + static_cast<size_t>(tx_[i].from)) * kStoreBytes;
    to[0] = static_cast<uint8_t>(tx_[i].interface);
    to[1] = static_cast<uint8_t>(tx_[i].bytes);
    memcpy(to + 2, memory_ + tx_[i].at, static_cast<size_t>(tx_[i].bytes));
  }
  for (size_t i = 0; i < count; i += 1) {
    const int verdict = rx_[i].user & 0xff;
    if (verdict == kForwarded) forwarded += 1;
    else if (verdict == kPassed) passed += 1;
    else drops[rx_[i].user >> 8] += 1;
  }
  taken_ += count;
  return count;
}

// All frames once, in windows; the time of loading them is not counted.
double RunAll(Nat& nat, const Header& header, const uint8_t* frames, double* clock, uint8_t* capture) {
  double spent = 0;
  const size_t all = static_cast<size_t>(header.frames);
  const size_t window = static_cast<size_t>(header.window);
  for (size_t first = 0; first < all; first += window) {
    nat.Load(frames, first, all - first < window ? all - first : window);
    const int32_t tick = static_cast<int32_t>(*clock / 1e6);
    const double from = Now();
    while (nat.RunBatch(tick, capture) > 0) continue;
    const double took = Now() - from;
    spent += took;
    *clock += took;
  }
  return spent;
}

int Main(const char* input_path, const char* output_path) {
  const int fd = open(input_path, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fd < 0 || fstat(fd, &status) != 0) Die(input_path);
  void* input = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
  if (input == MAP_FAILED) Die("mmap");
  Header header;
  memcpy(&header, input, sizeof header);
  if (header.magic != kMagic || header.version != kVersion) Die("not an input of this program");
  const uint8_t* body = static_cast<uint8_t*>(input) + sizeof header;
  const size_t frame_bytes = static_cast<size_t>(header.frames) * kStoreBytes;
  const uint8_t* frames = static_cast<uint8_t*>(input) + static_cast<size_t>(status.st_size) - frame_bytes;
  static Nat* nat = new Nat(header, body);

  const int out = open(output_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (out < 0 || ftruncate(out, static_cast<off_t>(frame_bytes)) != 0) Die(output_path);
  void* capture = mmap(nullptr, frame_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0);
  if (capture == MAP_FAILED) Die("mmap");
  double clock = 0;
  RunAll(*nat, header, frames, &clock, static_cast<uint8_t*>(capture));
  munmap(capture, frame_bytes);
  close(out);
  printf("ready\n");
  fflush(stdout);

  char line[64];
  while (fgets(line, sizeof line, stdin) != nullptr) {
    const int passes = atoi(line);
    const uint64_t before = nat->forwarded;
    double spent = 0;
    for (int pass = 0; pass < passes; pass += 1) spent += RunAll(*nat, header, frames, &clock, nullptr);
    printf("{\"nsPerFrame\":%.3f,\"forwarded\":%llu}\n", spent / (static_cast<double>(passes) * header.frames),
           static_cast<unsigned long long>(nat->forwarded - before));
    fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 3) return Main(arguments[1], arguments[2]);
  fprintf(stderr, "usage: nat INPUT OUTPUT\n");
  return 2;
}

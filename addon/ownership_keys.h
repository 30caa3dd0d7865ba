// What the ownership programs of both families share: flags, keys of the maps, places on the stack,
// numbers of the kernel's interface.
#ifndef HEADGATE_ADDON_OWNERSHIP_KEYS_H_
#define HEADGATE_ADDON_OWNERSHIP_KEYS_H_

#include <cstddef>
#include <cstdint>

#include "bpf.h"

namespace headgate::bpf {

// Flags of an address: src/host/guard-entries.ts has the same numbers.
constexpr int kVip = 1;      // a VIP that is also the host's address
constexpr int kWhole = 2;    // every packet to it is owned
constexpr int kHost = 4;     // an address of the host
constexpr int kBackend = 8;  // an address of a nat backend

// An entry of the front: high half of the address << 16 | flags << 8 | these.
constexpr uint32_t kFrontUsed = 1;
constexpr uint32_t kFrontMore = 2;
constexpr uint32_t kFrontEntries = 1 << 16;

// Kinds of port entries: src/host/guard-entries.ts has the same numbers.
constexpr int kPortsOfVip = 0;
constexpr int kPortsOfBackend = 1;

// The maps: file descriptors.
struct OwnershipMaps {
  int front = -1;
  int addresses = -1;
  int ports = -1;
  int addresses6 = -1;
  int ports6 = -1;
  int prefixes = -1;
};

// Queues of one interface that the socket map has room for: its index is ordinal * this + queue.
constexpr uint32_t kQueuesMax = 64;

// Key of the port map (struct bpf_lpm_trie_key: length in bits, then the data, longest first).
struct PortKey {
  uint32_t bits;
  uint32_t address;  // network order
  uint8_t protocol;
  uint8_t kind;
  uint16_t port;  // network order
};
static_assert(sizeof(PortKey) == 12, "the key has no padding: the kernel compares bytes");
constexpr uint32_t kFixedBits = 48;  // address, protocol and kind always count

// The same of IPv6.
struct PortKey6 {
  uint32_t bits;
  uint8_t address[16];
  uint8_t protocol;
  uint8_t kind;
  uint16_t port;  // network order
};
static_assert(sizeof(PortKey6) == 24, "the key has no padding: the kernel compares bytes");
constexpr uint32_t kFixedBits6 = 144;

// Key of the prefix map, for both families; IPv4 as ::ffff:a.b.c.d.
struct PrefixKey {
  uint32_t bits;  // of 128
  uint8_t address[16];
};
static_assert(sizeof(PrefixKey) == 20, "the key has no padding: the kernel compares bytes");

constexpr int kContext = R6;   // struct __sk_buff or xdp_md
constexpr int kAt = R7;        // offset in the frame of the header that is looked at next
constexpr int kFrame = R7;     // XDP, before kAt: the packet's first byte
constexpr int kFlags = R8;     // flags of the destination (quoted: of the source)
constexpr int kProtocol = R9;  // IP protocol

// The stack frame, relative to r10.
constexpr int kHeader = -24;  // an IPv4 header without options, 20 bytes
constexpr int kVersionIhl = kHeader + 0;
constexpr int kFragment = kHeader + 6;
constexpr int kIpProtocol = kHeader + 9;
constexpr int kSource = kHeader + 12;
constexpr int kDestination = kHeader + 16;
constexpr int kL4 = -32;  // source and destination port, or type and code of ICMP; 4 bytes
constexpr int kKey = -48;  // struct PortKey
constexpr int kFrontIndex = -52;
constexpr int kHostOrder = -56;  // the address that is looked up
// IPv6: below those of IPv4.
constexpr int kHeader6 = -96;  // the fixed header, 40 bytes
constexpr int kNextHeader6 = kHeader6 + 6;
constexpr int kHopLimit6 = kHeader6 + 7;
constexpr int kSource6 = kHeader6 + 8;
constexpr int kDestination6 = kHeader6 + 24;
constexpr int kExtension = -104;   // the first 8 bytes of an extension header
constexpr int kSolicitation = -128;  // a neighbour solicitation: type to target, 24 bytes
constexpr int kTarget = kSolicitation + 8;
constexpr int kKey6 = -152;       // struct PortKey6
constexpr int kPrefixKey = -176;  // struct PrefixKey

// Where a field of the key lies on the stack.
constexpr int KeyAt(size_t field) { return kKey + static_cast<int>(field); }

constexpr int kEthernetBytes = 14;
constexpr int kArpBytes = 28;
constexpr int kIpv4Bytes = 20;
constexpr int kIcmpBytes = 8;
constexpr int kIpv6Bytes = 40;

// Numbers of include/uapi/linux/bpf.h, if_packet.h, if_ether.h, in.h and icmp.h.
constexpr int kLookup = 1;      // BPF_FUNC_map_lookup_elem
constexpr int kSkbLoadBytes = 26;  // BPF_FUNC_skb_load_bytes
constexpr int kRedirectMap = 51;    // BPF_FUNC_redirect_map
constexpr int kXdpLoadBytes = 189;  // BPF_FUNC_xdp_load_bytes, Linux 5.18
constexpr int kTcxNext = -1, kTcxDrop = 2;
constexpr int kPacketBroadcast = 1, kPacketMulticast = 2;
constexpr int kIcmp = 1, kTcp = 6, kUdp = 17;
constexpr int kEchoRequest = 8;
// Unreachable, source quench, redirect, time exceeded, parameter problem: they quote a packet.
constexpr int kErrorTypes[] = {3, 4, 5, 11, 12};

constexpr int Network16(int value) { return ((value & 0xff) << 8) | (value >> 8); }
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Network16 swaps: x86-64 and arm64");

// Extension headers of IPv6 that carry another header behind them, and are walked.
constexpr int kHopByHop = 0, kRouting = 43, kFragmentHeader = 44, kDestinationOptions = 60;
// As many are walked; a packet with more is judged by its address alone.
constexpr int kExtensionsMax = 8;
constexpr int kIcmp6 = 58;
constexpr int kEchoRequest6 = 128, kNeighbourSolicitation = 135;
// Unreachable, too big, time exceeded, parameter problem: they quote a packet.
constexpr int kErrorTypes6[] = {1, 2, 3, 4};

}  // namespace headgate::bpf

#endif  // HEADGATE_ADDON_OWNERSHIP_KEYS_H_

// What the ownership programs of both families and their owner (guard.cc) share: flags and the keys of
// the maps.
#ifndef HEADGATE_ADDON_OWNERSHIP_KEYS_H_
#define HEADGATE_ADDON_OWNERSHIP_KEYS_H_

#include <cstddef>
#include <cstdint>

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

constexpr int kEthernetBytes = 14;

}  // namespace headgate::bpf

#endif  // HEADGATE_ADDON_OWNERSHIP_KEYS_H_

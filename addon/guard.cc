// The guard: the program that keeps the kernel away from the packets that the gateway owns
// (ownership.h), the maps that say which those are, and the links that hold it on interfaces.
//
// For AF_PACKET it is a TCX ingress program, one for all interfaces. It runs after the tap
// (net/core/dev.c, __netif_receive_skb_core: ptype_all, then sch_handle_ingress), so the gateway
// still sees what it drops. For AF_XDP it is an XDP program, one an interface, that also hands the
// packets to the gateway's sockets. Without a pin the links live exactly as long as this process,
// SIGKILL included.
#include "guard.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>

#include <cstring>
#include <string>
#include <vector>

#include "bpf.h"
#include "frame_io.h"
#include "ownership.h"
#include "util.h"

namespace {

using headgate::Failure;
using headgate::Fd;
using headgate::Holder;
using namespace headgate::bpf;

// include/uapi/linux/bpf.h of Linux 6.6; Debian 12's header is older.
constexpr uint32_t kBpfTcxIngress = 46;
constexpr uint32_t kBpfBefore = 1u << 3;  // BPF_F_BEFORE; relative to nothing: first

// Kinds of guards: src/device/guard-native.ts has the same numbers.
constexpr int kHookTcx = 0;
constexpr int kHookXdp = 1;

constexpr char kName[] = "headgate_guard";

// An address of either family in network order; IPv4 as ::ffff:a.b.c.d.
struct Address {
  uint8_t bytes[16];

  bool is_ipv4() const {
    static constexpr uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return std::memcmp(bytes, kMapped, sizeof kMapped) == 0;
  }
  // Host order.
  uint32_t ipv4() const {
    uint32_t address = 0;
    std::memcpy(&address, bytes + 12, sizeof address);
    return ntohl(address);
  }
};

class GuardOwner : public headgate::SharedOwner {
 public:
  // `fallback`: what XDP does with an owned packet that no socket takes.
  Failure Open(uint32_t addressesMax, uint32_t portsMax, int hook, int fallback) {
    hook_ = hook;
    fallback_ = fallback;
    if (Failure failure = CreateMaps(addressesMax, portsMax)) return failure;
    if (hook_ == kHookXdp) {
      return CreateMap(BPF_MAP_TYPE_XSKMAP, sizeof(uint32_t),
                       headgate::kInterfacesMax * kQueuesMax, 0, "headgate_xsk", &sockets_);
    }
    return LoadProgram(BPF_PROG_TYPE_SCHED_CLS, kBpfTcxIngress,
                       OwnershipProgram(maps()).BuildTcx(), kName, &program_);
  }

  // An address, or a prefix of fewer bits than all.
  Failure SetAddress(const Address& address, uint32_t bits, uint32_t flags) {
    if (bits < 128) return SetPrefix(address, bits, flags);
    if (!address.is_ipv4()) return UpdateMap(addresses6_, address.bytes, flags, "addresses");
    return SetAddress4(address.ipv4(), flags);
  }
  Failure RemoveAddress(const Address& address, uint32_t bits) {
    if (bits < 128) {
      const PrefixKey key = KeyOf(address, bits);
      return RemoveFromMap(prefixes_, &key, "prefixes");
    }
    if (!address.is_ipv4()) return RemoveFromMap(addresses6_, address.bytes, "addresses");
    return RemoveAddress4(address.ipv4());
  }
  Failure SetPorts(const PortKey& key) { return UpdateMap(ports_, &key, 1, "ports"); }
  Failure SetPorts(const PortKey6& key) { return UpdateMap(ports6_, &key, 1, "ports"); }
  Failure RemovePorts(const PortKey& key) { return RemoveFromMap(ports_, &key, "ports"); }
  Failure RemovePorts(const PortKey6& key) { return RemoveFromMap(ports6_, &key, "ports"); }

  // Puts the program on an interface; with a pin, in the place of the program that is pinned there.
  //
  // ordinal  place of the interface in the device's list (XDP)
  // generic  XDP after the driver has made an skb of the frame, not in the driver
  Failure Attach(int interfaceIndex, const std::string& pin, uint32_t ordinal, bool generic,
                 bool* replaced) {
    *replaced = false;
    if (hook_ == kHookXdp) {
      const Failure failure = LoadProgram(
          BPF_PROG_TYPE_XDP, BPF_XDP,
          OwnershipProgram(maps())
              .BuildXdp(sockets_.get(), ordinal * kQueuesMax, fallback_),
          kName, &program_);
      if (failure) return failure;
    }
    if (!pin.empty()) {
      Fd pinned;
      Failure failure;
      const int on = PinnedInterface(pin, &pinned, &failure);
      if (on == interfaceIndex) {
        union bpf_attr attr {};
        attr.link_update.link_fd = static_cast<uint32_t>(pinned.get());
        attr.link_update.new_prog_fd = static_cast<uint32_t>(program_.get());
        if (Bpf(BPF_LINK_UPDATE, &attr) < 0) return {errno, "bpf(LINK_UPDATE)", pin};
        links_.push_back(std::move(pinned));
        *replaced = true;
        return {};
      }
      if (on < 0 && failure.code != ENOENT) return failure;
      // The pin of an interface that went away and came back under its name.
      if (on >= 0 && unlink(pin.c_str()) < 0) return {errno, "unlink", pin};
    }
    Fd link;
    if (const Failure failure = CreateLink(interfaceIndex, generic, &link)) return failure;
    if (!pin.empty()) {
      union bpf_attr attr {};
      attr.pathname = Pointer(pin.c_str());
      attr.bpf_fd = static_cast<uint32_t>(link.get());
      if (Bpf(BPF_OBJ_PIN, &attr) < 0) return {errno, "bpf(OBJ_PIN)", pin};
    }
    links_.push_back(std::move(link));
    return {};
  }

  // -1 for TCX.
  int sockets() const { return sockets_.get(); }

  void Release() override {
    links_.clear();
    program_.Close();
    sockets_.Close();
    for (Fd* map : {&prefixes_, &ports6_, &addresses6_, &ports_, &addresses_, &front_}) map->Close();
  }

 private:
  // Nothing of what the sizes say is taken before it is used, but for the front's 256 KiB.
  Failure CreateMaps(uint32_t addressesMax, uint32_t portsMax) {
    const struct {
      uint32_t type;
      uint32_t key_bytes;
      uint32_t entries;
      uint32_t flags;
      const char* name;
      Fd* map;
    } maps[] = {
        {BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), kFrontEntries, 0, "headgate_front", &front_},
        {BPF_MAP_TYPE_HASH, sizeof(uint32_t), addressesMax, BPF_F_NO_PREALLOC, "headgate_addr",
         &addresses_},
        {BPF_MAP_TYPE_LPM_TRIE, sizeof(PortKey), portsMax, BPF_F_NO_PREALLOC, "headgate_ports",
         &ports_},
        {BPF_MAP_TYPE_HASH, 16, addressesMax, BPF_F_NO_PREALLOC, "headgate_addr6", &addresses6_},
        {BPF_MAP_TYPE_LPM_TRIE, sizeof(PortKey6), portsMax, BPF_F_NO_PREALLOC, "headgate_ports6",
         &ports6_},
        {BPF_MAP_TYPE_LPM_TRIE, sizeof(PrefixKey), addressesMax, BPF_F_NO_PREALLOC,
         "headgate_prefix", &prefixes_},
    };
    for (const auto& each : maps) {
      const Failure failure = CreateMap(each.type, each.key_bytes, each.entries, each.flags,
                                        each.name, each.map);
      if (failure) return failure;
    }
    return {};
  }

  OwnershipMaps maps() const {
    OwnershipMaps maps;
    maps.front = front_.get();
    maps.addresses = addresses_.get();
    maps.ports = ports_.get();
    maps.addresses6 = addresses6_.get();
    maps.ports6 = ports6_.get();
    maps.prefixes = prefixes_.get();
    return maps;
  }

  static PrefixKey KeyOf(const Address& address, uint32_t bits) {
    PrefixKey key{};
    key.bits = bits;
    std::memcpy(key.address, address.bytes, sizeof key.address);
    return key;
  }

  // The hash has every address, so that whatever the front says of others' low halves is true.
  Failure SetAddress4(uint32_t address, uint32_t flags) {
    const uint32_t key = htonl(address);
    if (Failure failure = UpdateMap(addresses_, &key, flags, "addresses")) return failure;
    const uint32_t entry = shadow_[address % kFrontEntries];
    if ((entry & kFrontUsed) != 0 && entry >> 16 != address >> 16) {
      return SetFront(address, entry | kFrontMore);
    }
    return SetFront(address, (address >> 16 << 16) | flags << 8 | kFrontUsed | (entry & kFrontMore));
  }
  Failure RemoveAddress4(uint32_t address) {
    const uint32_t entry = shadow_[address % kFrontEntries];
    if ((entry & kFrontUsed) != 0 && entry >> 16 == address >> 16) {
      if (Failure failure = SetFront(address, entry & kFrontMore)) return failure;
    }
    const uint32_t key = htonl(address);
    return RemoveFromMap(addresses_, &key, "addresses");
  }

  // The prefix first: the front of an IPv4 prefix sends all its low halves on to it. They stay so
  // when it goes; those look-ups then find nothing.
  Failure SetPrefix(const Address& address, uint32_t bits, uint32_t flags) {
    const PrefixKey key = KeyOf(address, bits);
    if (Failure failure = UpdateMap(prefixes_, &key, flags, "prefixes")) return failure;
    if (!address.is_ipv4() || bits < 96) return {};
    const uint32_t free_bits = 128 - bits;
    const uint32_t count = free_bits >= 16 ? kFrontEntries : 1u << free_bits;
    const uint32_t first = free_bits >= 16 ? 0 : address.ipv4() & ~(count - 1);
    for (uint32_t index = 0; index < count; index += 1) {
      const uint32_t entry = shadow_[(first + index) % kFrontEntries];
      if ((entry & kFrontMore) != 0) continue;
      if (Failure failure = SetFront(first + index, entry | kFrontMore)) return failure;
    }
    return {};
  }

  Failure SetFront(uint32_t address, uint32_t entry) {
    const uint32_t index = address % kFrontEntries;
    if (Failure failure = UpdateMap(front_, &index, entry, "addresses")) return failure;
    shadow_[index] = entry;
    return {};
  }

  Failure CreateLink(int interfaceIndex, bool generic, Fd* link) const {
    union bpf_attr attr {};
    attr.link_create.prog_fd = static_cast<uint32_t>(program_.get());
    attr.link_create.target_ifindex = static_cast<uint32_t>(interfaceIndex);
    if (hook_ == kHookXdp) {
      attr.link_create.attach_type = BPF_XDP;
      attr.link_create.flags = generic ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE;
    } else {
      attr.link_create.attach_type = kBpfTcxIngress;
      // First: a program before us that accepts a packet would hide it from the guard.
      attr.link_create.flags = kBpfBefore;
    }
    *link = Fd(static_cast<int>(Bpf(BPF_LINK_CREATE, &attr)));
    if (link->ok()) return {};
    return {errno, "bpf(LINK_CREATE)", "interface " + std::to_string(interfaceIndex)};
  }

  int hook_ = kHookTcx;
  int fallback_ = XDP_PASS;
  Fd front_;
  // What is in it.
  std::vector<uint32_t> shadow_ = std::vector<uint32_t>(kFrontEntries);
  Fd addresses_;
  Fd ports_;
  Fd addresses6_;
  Fd ports6_;
  Fd prefixes_;
  Fd sockets_;
  Fd program_;
  std::vector<Fd> links_;
};

// ---------------------------------------------------------------------------------------------
// Node-API. Arguments were checked in src/device/guard-native.ts.

constexpr size_t kArgumentsMax = 8;

struct Call {
  napi_value arguments[kArgumentsMax] = {};
  GuardOwner* guard = nullptr;
  Holder* holder = nullptr;

  Call(napi_env env, napi_callback_info info) : env_(env) {
    size_t count = kArgumentsMax;
    void* data = nullptr;
    napi_get_cb_info(env, info, &count, arguments, nullptr, &data);
    holder = static_cast<Holder*>(data);
    guard = static_cast<GuardOwner*>(holder->owner());
    if (guard == nullptr) headgate::Throw(env, {EBADF, "guard", "a guard that is closed"});
  }
  int32_t Integer(size_t index) const {
    int32_t value = 0;
    napi_get_value_int32(env_, arguments[index], &value);
    return value;
  }
  // Four words in host order, from argument `first` on.
  Address AddressAt(size_t first) const {
    Address address;
    for (size_t word = 0; word < 4; word += 1) {
      const uint32_t value = htonl(static_cast<uint32_t>(Integer(first + word)));
      std::memcpy(address.bytes + 4 * word, &value, sizeof value);
    }
    return address;
  }
  PortKey Ports() const {
    PortKey key{};
    key.bits = kFixedBits + static_cast<uint32_t>(Integer(7));
    key.kind = static_cast<uint8_t>(Integer(0));
    key.protocol = static_cast<uint8_t>(Integer(1));
    key.address = htonl(AddressAt(2).ipv4());
    key.port = htons(static_cast<uint16_t>(Integer(6)));
    return key;
  }
  PortKey6 Ports6() const {
    PortKey6 key{};
    key.bits = kFixedBits6 + static_cast<uint32_t>(Integer(7));
    key.kind = static_cast<uint8_t>(Integer(0));
    key.protocol = static_cast<uint8_t>(Integer(1));
    const Address address = AddressAt(2);
    std::memcpy(key.address, address.bytes, sizeof key.address);
    key.port = htons(static_cast<uint16_t>(Integer(6)));
    return key;
  }

 private:
  napi_env env_;
};

void ThrowIf(napi_env env, const Failure& failure) {
  if (failure) headgate::Throw(env, failure);
}

// setAddress(word0, word1, word2, word3, bits, flags)
napi_value CallSetAddress(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  ThrowIf(env, call.guard->SetAddress(call.AddressAt(0), static_cast<uint32_t>(call.Integer(4)),
                                      static_cast<uint32_t>(call.Integer(5))));
  return nullptr;
}

napi_value CallRemoveAddress(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  ThrowIf(env, call.guard->RemoveAddress(call.AddressAt(0), static_cast<uint32_t>(call.Integer(4))));
  return nullptr;
}

// setPorts(kind, protocol, word0, word1, word2, word3, port, bits)
napi_value CallSetPorts(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  const bool is_ipv4 = call.AddressAt(2).is_ipv4();
  ThrowIf(env, is_ipv4 ? call.guard->SetPorts(call.Ports()) : call.guard->SetPorts(call.Ports6()));
  return nullptr;
}

napi_value CallRemovePorts(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  const bool is_ipv4 = call.AddressAt(2).is_ipv4();
  ThrowIf(env, is_ipv4 ? call.guard->RemovePorts(call.Ports())
                       : call.guard->RemovePorts(call.Ports6()));
  return nullptr;
}

std::string TextOf(napi_env env, napi_value value) {
  size_t bytes = 0;
  napi_get_value_string_utf8(env, value, nullptr, 0, &bytes);
  std::string text(bytes, '\0');
  napi_get_value_string_utf8(env, value, text.data(), bytes + 1, &bytes);
  return text;
}

// attach(interfaceIndex, pin, ordinal, generic): 1 when a pinned program was replaced, else 0.
napi_value CallAttach(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  bool replaced = false;
  ThrowIf(env, call.guard->Attach(call.Integer(0), TextOf(env, call.arguments[1]),
                                  static_cast<uint32_t>(call.Integer(2)), call.Integer(3) != 0,
                                  &replaced));
  return headgate::MakeNumber(env, replaced ? 1 : 0);
}

napi_value CallClose(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  static_cast<Holder*>(data)->Close();
  return nullptr;
}

// createGuard(addressesMax, portsMax, hook, keeps): with `keeps`, XDP drops an owned packet that no
// socket takes (a pinned program without a gateway), instead of leaving it to the kernel.
Napi::Value CreateGuard(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto* guard = new GuardOwner();
  const Failure failure =
      guard->Open(info[0].As<Napi::Number>().Uint32Value(), info[1].As<Napi::Number>().Uint32Value(),
                  info[2].As<Napi::Number>().Int32Value(),
                  info[3].As<Napi::Boolean>().Value() ? XDP_DROP : XDP_PASS);
  if (failure) {
    delete guard;
    headgate::Throw(env, failure);
    return env.Undefined();
  }
  Holder* holder = Holder::Make(env, guard);
  napi_value result = nullptr;
  napi_create_object(env, &result);
  headgate::SetNumber(env, result, "sockets", guard->sockets());
  headgate::AddFunction(env, result, "setAddress", CallSetAddress, holder);
  headgate::AddFunction(env, result, "removeAddress", CallRemoveAddress, holder);
  headgate::AddFunction(env, result, "setPorts", CallSetPorts, holder);
  headgate::AddFunction(env, result, "removePorts", CallRemovePorts, holder);
  headgate::AddFunction(env, result, "attach", CallAttach, holder);
  headgate::AddFunction(env, result, "close", CallClose, holder);
  holder->DropReference();
  return Napi::Value(env, result);
}

// guardPinned(path): interface index of the link that is pinned there, 0 when its interface is
// gone, -1 when nothing is pinned there.
Napi::Value GuardPinned(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Fd link;
  Failure failure;
  const int on = PinnedInterface(info[0].As<Napi::String>().Utf8Value(), &link, &failure);
  if (on < 0 && failure.code != ENOENT) {
    headgate::Throw(env, failure);
    return env.Undefined();
  }
  return Napi::Number::New(env, on);
}

}  // namespace

void InitGuard(Napi::Env env, Napi::Object exports) {
  exports.Set("createGuard", Napi::Function::New(env, CreateGuard, "createGuard"));
  exports.Set("guardPinned", Napi::Function::New(env, GuardPinned, "guardPinned"));
}

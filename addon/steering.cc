// Steering: a socket-filter program that says which worker a frame is for. The same program serves
// AF_PACKET (PACKET_FANOUT_EBPF, net/packet/af_packet.c) and TUN (TUNSETSTEERINGEBPF,
// drivers/net/tun.c): its result is the number of the worker, and both take it modulo the workers
// that are there.
//
// It is src/flow/owner.ts in eBPF: the same keyed hash, on 32 bits. Bytes are read relative to the
// network header (bpf_skb_load_bytes_relative, Linux 4.18), which both have set, whatever lies
// before it. Maps say which addresses are VIPs and which are SNAT addresses: a hash for each family,
// and one of prefixes for both; they follow the configuration.
//
// An IPv6 client counts by the exclusive-or of its four words. Extension headers are walked, as the
// guard does (ownership6.h); a packet with more of them is worker 0's.
#include <errno.h>
#include <linux/bpf.h>

#include <cstring>
#include <utility>
#include <vector>

#include "bpf.h"
#include "parts.h"
#include "util.h"

namespace headgate {

namespace {

using bpf::Assembler;
using bpf::R0;
using bpf::R1;
using bpf::R10;
using bpf::R2;
using bpf::R3;
using bpf::R4;
using bpf::R5;
using bpf::R6;
using bpf::R7;
using bpf::R8;
using bpf::R9;

// Flags of an address: src/device/steering-native.ts has the same numbers.
constexpr int kVip = 1;
constexpr int kSnat = 2;

struct Settings {
  uint32_t key[2];
  uint32_t port_mask;
  int workers;
};

constexpr int kContext = R6;   // struct __sk_buff
constexpr int kAt = R7;        // offset from the network header of what is looked at next
constexpr int kFlags = R8;     // flags of the address that decides the direction
constexpr int kProtocol = R9;  // IP protocol

// The stack frame, relative to r10.
constexpr int kHeader = -24;  // an IPv4 header without options, 20 bytes
constexpr int kFragment = kHeader + 6;
constexpr int kIpProtocol = kHeader + 9;
constexpr int kSource = kHeader + 12;
constexpr int kDestination = kHeader + 16;
constexpr int kL4 = -32;  // source and destination port, or type and code of ICMP; 4 bytes
constexpr int kHeader6 = -72;  // an IPv6 header, 40 bytes
constexpr int kNextHeader6 = kHeader6 + 6;
constexpr int kSource6 = kHeader6 + 8;
constexpr int kDestination6 = kHeader6 + 24;
constexpr int kExtension = -80;  // the first 8 bytes of an extension header
constexpr int kPrefixKey = -104;  // struct PrefixKey

constexpr int kIpv4Bytes = 20;
constexpr int kIcmpBytes = 8;
constexpr int kIpv6Bytes = 40;
constexpr int kIcmp = 1, kTcp = 6, kUdp = 17;
// Unreachable, source quench, redirect, time exceeded, parameter problem: they quote a packet.
constexpr int kErrorTypes[] = {3, 4, 5, 11, 12};

constexpr int kHopByHop = 0, kRouting = 43, kFragmentHeader = 44, kDestinationOptions = 60;
constexpr int kExtensionsMax = 8;
constexpr int kIcmp6 = 58;
// Unreachable, too big, time exceeded, parameter problem.
constexpr int kErrorTypes6[] = {1, 2, 3, 4};

// Key of the prefix map; IPv4 as ::ffff:a.b.c.d.
struct PrefixKey {
  uint32_t bits;  // of 128
  uint8_t address[16];
};
static_assert(sizeof(PrefixKey) == 20, "the key has no padding: the kernel compares bytes");

// The maps: file descriptors.
struct Maps {
  int addresses;
  int addresses6;
  int prefixes;
};

// include/uapi/linux/bpf.h
constexpr int kLookup = 1;             // BPF_FUNC_map_lookup_elem
constexpr int kLoadBytesRelative = 68;  // BPF_FUNC_skb_load_bytes_relative
constexpr int kFromNetworkHeader = 1;   // BPF_HDR_START_NET

constexpr int Network16(int value) { return ((value & 0xff) << 8) | (value >> 8); }
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Network16 swaps: x86-64 and arm64");

class SteeringProgram {
 public:
  SteeringProgram(const Maps& maps, const Settings& settings) : maps_(maps), settings_(settings) {}

  std::vector<bpf_insn> Build() {
    first_worker_ = code_.NewLabel();
    const Assembler::Label icmp = code_.NewLabel();
    const Assembler::Label to_vip = code_.NewLabel();
    const Assembler::Label to_snat = code_.NewLabel();
    const Assembler::Label ipv6 = code_.NewLabel();

    code_.Move(kContext, R1);
    code_.Load(BPF_W, R0, kContext, offsetof(__sk_buff, protocol));
    code_.JumpIf(BPF_JEQ, R0, Network16(0x86dd), ipv6);
    code_.JumpIf(BPF_JNE, R0, Network16(0x0800), first_worker_);
    code_.MoveValue(kAt, 0);
    LoadIpHeader();
    code_.JumpIf(BPF_JEQ, kProtocol, kIcmp, icmp);
    LoadPorts();
    LookUpAddress(kDestination);
    code_.JumpIf(BPF_JSET, kFlags, kVip, to_vip);
    code_.JumpIf(BPF_JSET, kFlags, kSnat, to_snat);
    // A reply in nat: the client is where it goes.
    ReturnClient(kDestination, kL4 + 2);
    code_.Bind(to_vip);
    ReturnClient(kSource, kL4);
    code_.Bind(to_snat);
    ReturnSnatPort(kL4 + 2);

    code_.Bind(icmp);
    BuildIcmp();

    code_.Bind(ipv6);
    BuildIpv6();

    code_.Bind(first_worker_);
    code_.MoveValue(R0, 0);
    code_.Exit();
    return code_.Finish();
  }

 private:
  void BuildIpv6() {
    const Assembler::Label icmp = code_.NewLabel();
    const Assembler::Label to_vip = code_.NewLabel();
    const Assembler::Label to_snat = code_.NewLabel();
    code_.MoveValue(kAt, 0);
    LoadIpHeader6();
    code_.JumpIf(BPF_JEQ, kProtocol, kIcmp6, icmp);
    LoadPorts6();
    LookUpAddress6(kDestination6);
    code_.JumpIf(BPF_JSET, kFlags, kVip, to_vip);
    code_.JumpIf(BPF_JSET, kFlags, kSnat, to_snat);
    ReturnClient6(kDestination6, kL4 + 2);
    code_.Bind(to_vip);
    ReturnClient6(kSource6, kL4);
    code_.Bind(to_snat);
    ReturnSnatPort(kL4 + 2);

    code_.Bind(icmp);
    const Assembler::Label error = code_.NewLabel();
    const Assembler::Label from_vip = code_.NewLabel();
    const Assembler::Label from_snat = code_.NewLabel();
    LoadBytes(kL4, 4);
    code_.Load(BPF_B, R0, R10, kL4);
    for (const int type : kErrorTypes6) code_.JumpIf(BPF_JEQ, R0, type, error);
    code_.Jump(first_worker_);
    code_.Bind(error);
    code_.Calculate(BPF_ADD, kAt, kIcmpBytes);
    LoadIpHeader6();
    LoadPorts6();
    LookUpAddress6(kSource6);
    code_.JumpIf(BPF_JSET, kFlags, kVip, from_vip);
    code_.JumpIf(BPF_JSET, kFlags, kSnat, from_snat);
    ReturnClient6(kSource6, kL4);
    code_.Bind(from_vip);
    ReturnClient6(kDestination6, kL4 + 2);
    code_.Bind(from_snat);
    ReturnSnatPort(kL4);
  }

  // Loads the header at kAt, walks the extension headers behind it, moves kAt to the transport
  // header and sets kProtocol. Later fragments are worker 0's.
  void LoadIpHeader6() {
    constexpr int kVariable[] = {kHopByHop, kRouting, kDestinationOptions};
    LoadBytes(kHeader6, kIpv6Bytes);
    code_.Load(BPF_B, R0, R10, kHeader6);
    code_.Calculate(BPF_RSH, R0, 4);
    code_.JumpIf(BPF_JNE, R0, 6, first_worker_);
    code_.Calculate(BPF_ADD, kAt, kIpv6Bytes);
    code_.Load(BPF_B, kProtocol, R10, kNextHeader6);
    const Assembler::Label done = code_.NewLabel();
    for (int walked = 0; walked < kExtensionsMax; walked += 1) {
      const Assembler::Label variable = code_.NewLabel();
      const Assembler::Label next = code_.NewLabel();
      for (const int header : kVariable) code_.JumpIf(BPF_JEQ, kProtocol, header, variable);
      code_.JumpIf(BPF_JNE, kProtocol, kFragmentHeader, done);
      LoadBytes(kExtension, 8);
      code_.Load(BPF_H, R0, R10, kExtension + 2);
      code_.JumpIf(BPF_JSET, R0, Network16(0xfff8), first_worker_);
      code_.Calculate(BPF_ADD, kAt, 8);
      code_.Jump(next);
      code_.Bind(variable);
      LoadBytes(kExtension, 8);
      code_.Load(BPF_B, R0, R10, kExtension + 1);
      code_.Calculate(BPF_ADD, R0, 1);
      code_.Calculate(BPF_LSH, R0, 3);
      code_.Add(kAt, R0);
      code_.Bind(next);
      code_.Load(BPF_B, kProtocol, R10, kExtension);
    }
    code_.Bind(done);
  }

  // At kAt: ports of TCP and UDP.
  void LoadPorts6() {
    const Assembler::Label known = code_.NewLabel();
    code_.JumpIf(BPF_JEQ, kProtocol, kTcp, known);
    code_.JumpIf(BPF_JNE, kProtocol, kUdp, first_worker_);
    code_.Bind(known);
    LoadBytes(kL4, 4);
  }

  // Ends with the owner of the IPv6 client at stack[address], stack[port].
  void ReturnClient6(int address, int port) {
    code_.Load(BPF_W, R0, R10, address);
    for (int at = 4; at < 16; at += 4) {
      code_.Load(BPF_W, R1, R10, address + at);
      code_.Combine32(BPF_XOR, R0, R1);
    }
    ReturnOwner(port);
  }

  // kFlags = flags of the address at stack[address], 0 when it is not known.
  void LookUpAddress6(int address) {
    const Assembler::Label unknown = code_.NewLabel();
    const Assembler::Label found = code_.NewLabel();
    code_.MoveValue(kFlags, 0);
    LookUp(maps_.addresses6, address);
    code_.JumpIf(BPF_JNE, R0, 0, found);
    code_.StoreValue(BPF_W, R10, kPrefixKey, 128);
    for (int at = 0; at < 16; at += 4) {
      code_.Load(BPF_W, R0, R10, address + at);
      code_.Store(BPF_W, R10, kPrefixKey + 4 + at, R0);
    }
    LookUp(maps_.prefixes, kPrefixKey);
    code_.JumpIf(BPF_JEQ, R0, 0, unknown);
    code_.Bind(found);
    code_.Load(BPF_W, kFlags, R0, 0);
    code_.Bind(unknown);
  }

  // r0 = pointer to the value for the key at stack[key], or 0.
  void LookUp(int map, int key) {
    code_.LoadMap(R1, map);
    code_.Move(R2, R10);
    code_.Calculate(BPF_ADD, R2, key);
    code_.Call(kLookup);
  }

  // At kAt: an ICMP message. An error belongs to the flow of the packet that it quotes, which we
  // sent: from a VIP to a client, from a SNAT address or a client to a backend.
  void BuildIcmp() {
    const Assembler::Label error = code_.NewLabel();
    const Assembler::Label from_vip = code_.NewLabel();
    const Assembler::Label from_snat = code_.NewLabel();
    LoadBytes(kL4, 4);
    code_.Load(BPF_B, R0, R10, kL4);
    for (const int type : kErrorTypes) code_.JumpIf(BPF_JEQ, R0, type, error);
    code_.Jump(first_worker_);

    code_.Bind(error);
    code_.Calculate(BPF_ADD, kAt, kIcmpBytes);
    LoadIpHeader();
    LoadPorts();
    LookUpAddress(kSource);
    code_.JumpIf(BPF_JSET, kFlags, kVip, from_vip);
    code_.JumpIf(BPF_JSET, kFlags, kSnat, from_snat);
    ReturnClient(kSource, kL4);
    code_.Bind(from_vip);
    ReturnClient(kDestination, kL4 + 2);
    code_.Bind(from_snat);
    ReturnSnatPort(kL4);
  }

  // Ends with the owner of the client at stack[address], stack[port]: ownerOfClient() of owner.ts.
  void ReturnClient(int address, int port) {
    code_.Load(BPF_W, R0, R10, address);
    ReturnOwner(port);
  }

  // Ends with the owner of the client whose address is r0, in network order.
  void ReturnOwner(int port) {
    code_.FromNetwork(R0, 32);
    code_.Calculate32(BPF_XOR, R0, static_cast<int32_t>(settings_.key[0]));
    code_.Calculate32(BPF_MUL, R0, static_cast<int32_t>(0x85ebca6b));
    ShiftIn(15);
    code_.Load(BPF_H, R2, R10, port);
    code_.FromNetwork(R2, 16);
    code_.Calculate32(BPF_AND, R2, static_cast<int32_t>(settings_.port_mask));
    code_.Combine32(BPF_XOR, R0, R2);
    code_.Calculate32(BPF_XOR, R0, static_cast<int32_t>(settings_.key[1]));
    code_.Calculate32(BPF_MUL, R0, static_cast<int32_t>(0xc2b2ae35));
    ShiftIn(13);
    code_.Calculate32(BPF_MUL, R0, 0x27d4eb2f);
    ShiftIn(16);
    code_.Calculate32(BPF_RSH, R0, 16);
    code_.Calculate32(BPF_MUL, R0, settings_.workers);
    code_.Calculate32(BPF_RSH, R0, 16);
    code_.Exit();
  }

  // r0 ^= r0 >> bits
  void ShiftIn(int bits) {
    code_.Move(R1, R0);
    code_.Calculate32(BPF_RSH, R1, bits);
    code_.Combine32(BPF_XOR, R0, R1);
  }

  // Ends with the owner of the port at stack[port] of a SNAT address.
  void ReturnSnatPort(int port) {
    code_.Load(BPF_H, R0, R10, port);
    code_.FromNetwork(R0, 16);
    code_.Calculate32(BPF_MOD, R0, settings_.workers);
    code_.Exit();
  }

  // stack[to..to+bytes) = packet[kAt..); what is too short is worker 0's.
  void LoadBytes(int to, int bytes) {
    code_.Move(R1, kContext);
    code_.Move(R2, kAt);
    code_.Move(R3, R10);
    code_.Calculate(BPF_ADD, R3, to);
    code_.MoveValue(R4, bytes);
    code_.MoveValue(R5, kFromNetworkHeader);
    code_.Call(kLoadBytesRelative);
    code_.JumpIf(BPF_JNE, R0, 0, first_worker_);
  }

  // Loads the header at kAt, moves kAt behind it (options included), sets kProtocol.
  void LoadIpHeader() {
    LoadBytes(kHeader, kIpv4Bytes);
    code_.Load(BPF_B, R0, R10, kHeader);
    code_.Move(R1, R0);
    code_.Calculate(BPF_RSH, R1, 4);
    code_.JumpIf(BPF_JNE, R1, 4, first_worker_);
    code_.Calculate(BPF_AND, R0, 15);
    code_.JumpIf(BPF_JLT, R0, kIpv4Bytes / 4, first_worker_);
    code_.Calculate(BPF_LSH, R0, 2);
    code_.Add(kAt, R0);
    code_.Load(BPF_B, kProtocol, R10, kIpProtocol);
  }

  // Ports of TCP and UDP. Other protocols, and later fragments, which have none, are worker 0's.
  void LoadPorts() {
    const Assembler::Label known = code_.NewLabel();
    code_.JumpIf(BPF_JEQ, kProtocol, kTcp, known);
    code_.JumpIf(BPF_JNE, kProtocol, kUdp, first_worker_);
    code_.Bind(known);
    code_.Load(BPF_H, R0, R10, kFragment);
    code_.JumpIf(BPF_JSET, R0, Network16(0x1fff), first_worker_);
    LoadBytes(kL4, 4);
  }

  // kFlags = flags of the address at stack[address], 0 when it is not known.
  void LookUpAddress(int address) {
    const Assembler::Label unknown = code_.NewLabel();
    const Assembler::Label found = code_.NewLabel();
    code_.MoveValue(kFlags, 0);
    LookUp(maps_.addresses, address);
    code_.JumpIf(BPF_JNE, R0, 0, found);
    code_.StoreValue(BPF_W, R10, kPrefixKey, 128);
    code_.StoreValue(BPF_W, R10, kPrefixKey + 4, 0);
    code_.StoreValue(BPF_W, R10, kPrefixKey + 8, 0);
    code_.StoreValue(BPF_W, R10, kPrefixKey + 12, static_cast<int32_t>(0xffff0000));
    code_.Load(BPF_W, R0, R10, address);
    code_.Store(BPF_W, R10, kPrefixKey + 16, R0);
    LookUp(maps_.prefixes, kPrefixKey);
    code_.JumpIf(BPF_JEQ, R0, 0, unknown);
    code_.Bind(found);
    code_.Load(BPF_W, kFlags, R0, 0);
    code_.Bind(unknown);
  }

  Assembler code_;
  Assembler::Label first_worker_ = 0;
  const Maps maps_;
  const Settings settings_;
};

class SteeringOwner : public SharedOwner {
 public:
  Failure Open(const Settings& settings, uint32_t addresses_max) {
    const auto hash = BPF_MAP_TYPE_HASH, trie = BPF_MAP_TYPE_LPM_TRIE;
    Failure failure = bpf::CreateMap(hash, 4, addresses_max, BPF_F_NO_PREALLOC, "headgate_steer",
                                     &addresses_);
    if (failure) return failure;
    failure = bpf::CreateMap(hash, 16, addresses_max, BPF_F_NO_PREALLOC, "headgate_steer6",
                             &addresses6_);
    if (failure) return failure;
    failure = bpf::CreateMap(trie, sizeof(PrefixKey), addresses_max, BPF_F_NO_PREALLOC,
                             "headgate_steerp", &prefixes_);
    if (failure) return failure;
    const Maps maps{addresses_.get(), addresses6_.get(), prefixes_.get()};
    const std::vector<bpf_insn> code = SteeringProgram(maps, settings).Build();
    return bpf::LoadProgram(BPF_PROG_TYPE_SOCKET_FILTER, 0, code, "headgate_steer", &program_);
  }

  int program() const { return program_.get(); }

  // words  in host order, IPv4 mapped; bits of the 128, fewer for a prefix
  Failure Set(const uint32_t words[4], uint32_t bits, uint32_t flags) {
    PrefixKey key{};
    key.bits = bits;
    for (int word = 0; word < 4; word += 1) {
      const uint32_t value = __builtin_bswap32(words[word]);
      std::memcpy(key.address + 4 * word, &value, sizeof value);
    }
    if (bits < 128) return Set(prefixes_, &key, flags);
    const bool is_ipv4 = words[0] == 0 && words[1] == 0 && words[2] == 0xffff;
    return is_ipv4 ? Set(addresses_, key.address + 12, flags)
                   : Set(addresses6_, key.address, flags);
  }

  void Release() override {
    program_.Close();
    prefixes_.Close();
    addresses6_.Close();
    addresses_.Close();
  }

 private:
  static Failure Set(const Fd& map, const void* key, uint32_t flags) {
    if (flags == 0) return bpf::RemoveFromMap(map, key, "addresses");
    return bpf::UpdateMap(map, key, flags, "addresses");
  }

  Fd addresses_;
  Fd addresses6_;
  Fd prefixes_;
  Fd program_;
};

struct Call {
  Holder* holder = nullptr;
  SteeringOwner* steering = nullptr;
  int32_t arguments[6] = {};
};

Call ReadCall(napi_env env, napi_callback_info info) {
  Call call;
  size_t count = 6;
  napi_value arguments[6] = {};
  void* data = nullptr;
  napi_get_cb_info(env, info, &count, arguments, nullptr, &data);
  call.holder = static_cast<Holder*>(data);
  call.steering = static_cast<SteeringOwner*>(call.holder->owner());
  for (size_t i = 0; i < count && i < 6; i += 1) {
    napi_get_value_int32(env, arguments[i], &call.arguments[i]);
  }
  return call;
}

// set(word0, word1, word2, word3, bits, flags): flags 0 removes it; removing what is not there is
// fine.
napi_value CallSet(napi_env env, napi_callback_info info) {
  const Call call = ReadCall(env, info);
  uint32_t words[4];
  for (int word = 0; word < 4; word += 1) words[word] = static_cast<uint32_t>(call.arguments[word]);
  const Failure failure =
      call.steering == nullptr ? Failure{EBADF, "steering", "steering that is closed"}
                               : call.steering->Set(words, static_cast<uint32_t>(call.arguments[4]),
                                                    static_cast<uint32_t>(call.arguments[5]));
  if (failure) Throw(env, failure);
  return nullptr;
}

napi_value CallClose(napi_env env, napi_callback_info info) {
  ReadCall(env, info).holder->Close();
  return nullptr;
}

// createSteering(key0, key1, portMask, workers, addressesMax): { programFd, set, close }
Napi::Value CreateSteering(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto number = [&info](size_t index) {
    return static_cast<uint32_t>(info[index].ToNumber().Int32Value());
  };
  auto* steering = new SteeringOwner();
  const Settings settings{{number(0), number(1)}, number(2), static_cast<int>(number(3))};
  if (const Failure failure = steering->Open(settings, number(4))) {
    delete steering;
    Throw(env, failure);
    return env.Undefined();
  }
  Holder* holder = Holder::Make(env, steering);
  napi_value result = nullptr;
  napi_create_object(env, &result);
  SetNumber(env, result, "programFd", steering->program());
  AddFunction(env, result, "set", CallSet, holder);
  AddFunction(env, result, "close", CallClose, holder);
  holder->DropReference();
  return Napi::Value(env, result);
}

}  // namespace

void InitSteering(Napi::Env env, Napi::Object exports) {
  exports.Set("createSteering", Napi::Function::New(env, CreateSteering, "createSteering"));
}

}  // namespace headgate

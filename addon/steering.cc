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
// An IPv6 client counts by the exclusive-or of its four words.
#include <errno.h>
#include <linux/bpf.h>

#include <cstring>
#include <utility>
#include <vector>

#include "packet_program.h"
#include "parts.h"
#include "util.h"

namespace headgate {

namespace bpf {

namespace {

// Flags of an address: src/device/steering-native.ts has the same numbers.
constexpr int kVip = 1;
constexpr int kSnat = 2;

struct SteeringSettings {
  uint32_t key[2];
  uint32_t port_mask;
  int workers;
  // Bits at the end of a client's address that do not count: IPv4 | IPv6 << 8.
  uint32_t host_bits;
};

// File descriptors.
struct SteeringMaps {
  int addresses;
  int addresses6;
  int prefixes;
};

class SteeringProgram : private PacketProgram {
 public:
  SteeringProgram(const SteeringMaps& maps, const SteeringSettings& settings)
      : maps_(maps), settings_(settings) {}

  std::vector<bpf_insn> Build() {
    load_bytes_ = kLoadBytesRelative;
    // All else is worker 0's.
    other_ = code_.NewLabel();
    const Assembler::Label icmp = code_.NewLabel();
    const Assembler::Label to_vip = code_.NewLabel();
    const Assembler::Label to_snat = code_.NewLabel();
    const Assembler::Label ipv6 = code_.NewLabel();

    code_.Move(kContext, R1);
    code_.Load(BPF_W, R0, kContext, offsetof(__sk_buff, protocol));
    code_.JumpIf(BPF_JEQ, R0, Network16(0x86dd), ipv6);
    code_.JumpIf(BPF_JNE, R0, Network16(0x0800), other_);
    code_.MoveValue(kAt, 0);
    LoadIpHeader();
    code_.JumpIf(BPF_JEQ, kProtocol, kIcmp, icmp);
    LoadPortsUnlessFragment();
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

    code_.Bind(other_);
    code_.MoveValue(R0, 0);
    code_.Exit();
    return code_.Finish();
  }

 private:
  // Only the first fragment of a datagram has ports: they all go by their addresses, as if the ports
  // were 0, so that they meet at one worker (Owners.ofFirst of src/datapath/owners.ts).
  void LoadPortsUnlessFragment() {
    code_.Load(BPF_H, R0, R10, kFragment);
    LoadPortsUnless(kFragmentBits);
  }

  // r0: the word with a packet's fragment bits.
  void LoadPortsUnless(int fragment_bits) {
    const Assembler::Label whole = code_.NewLabel();
    const Assembler::Label fragment = code_.NewLabel();
    const Assembler::Label known = code_.NewLabel();
    code_.Calculate(BPF_AND, R0, Network16(fragment_bits));
    code_.JumpIf(BPF_JEQ, R0, 0, whole);
    code_.JumpIf(BPF_JEQ, kProtocol, kTcp, fragment);
    code_.JumpIf(BPF_JNE, kProtocol, kUdp, other_);
    code_.Bind(fragment);
    code_.StoreValue(BPF_W, R10, kL4, 0);
    code_.Jump(known);
    code_.Bind(whole);
    LoadPorts();
    code_.Bind(known);
  }

  void BuildIpv6() {
    const Assembler::Label icmp = code_.NewLabel();
    const Assembler::Label error = code_.NewLabel();
    code_.MoveValue(kAt, 0);
    LoadIpHeader6();
    WalkHeaders6();
    code_.JumpIf(BPF_JEQ, kProtocol, kIcmp6, icmp);
    // An atomic fragment (RFC 6946) is whole.
    code_.Load(BPF_H, R0, R10, kFragment6);
    LoadPortsUnless(kFragmentBits6);
    ReturnByEnds6(kDestination6, kL4 + 2, kSource6, kL4);

    code_.Bind(icmp);
    RefuseLaterFragment6();
    LoadBytes(kL4, 4);
    code_.Load(BPF_B, R0, R10, kL4);
    for (const int type : kErrorTypes6) code_.JumpIf(BPF_JEQ, R0, type, error);
    code_.Jump(other_);
    code_.Bind(error);
    code_.Calculate(BPF_ADD, kAt, kIcmpBytes);
    LoadIpHeader6();
    WalkHeaders6();
    RefuseLaterFragment6();
    LoadPorts();
    ReturnByEnds6(kSource6, kL4, kDestination6, kL4 + 2);
  }

  // Ends with the owner by what the end at stack[ours] is: a VIP (the client is at the other end), a
  // SNAT address, or in nat the client itself.
  void ReturnByEnds6(int ours, int our_port, int other, int other_port) {
    const Assembler::Label vip = code_.NewLabel();
    const Assembler::Label snat = code_.NewLabel();
    LookUpFlags6(maps_.addresses6, maps_.prefixes, ours);
    code_.JumpIf(BPF_JSET, kFlags, kVip, vip);
    code_.JumpIf(BPF_JSET, kFlags, kSnat, snat);
    ReturnClient6(ours, our_port);
    code_.Bind(vip);
    ReturnClient6(other, other_port);
    code_.Bind(snat);
    ReturnSnatPort(our_port);
  }

  // Ends with the owner of the IPv6 client at stack[address], stack[port].
  void ReturnClient6(int address, int port) {
    const int bits = 128 - static_cast<int>(settings_.host_bits >> 8);
    code_.MoveValue(R0, 0);
    for (int word = 0; word < 4; word += 1) {
      const uint32_t mask = MaskOf(bits - 32 * word);
      if (mask == 0) break;
      code_.Load(BPF_W, R1, R10, address + 4 * word);
      if (mask != kAllBits) {
        code_.Calculate32(BPF_AND, R1, static_cast<int32_t>(__builtin_bswap32(mask)));
      }
      code_.Combine32(BPF_XOR, R0, R1);
    }
    ReturnOwner(port);
  }

  static constexpr uint32_t kAllBits = 0xffffffff;

  // The first bits of a word, in host order.
  static uint32_t MaskOf(int bits) {
    if (bits >= 32) return kAllBits;
    return bits <= 0 ? 0 : kAllBits << (32 - bits);
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
    code_.Jump(other_);

    code_.Bind(error);
    code_.Calculate(BPF_ADD, kAt, kIcmpBytes);
    LoadIpHeader();
    RefuseLaterFragment();
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

  // Ends with the owner of the client whose address, or sum of one, is r0, in network order.
  void ReturnOwner(int port) {
    code_.FromNetwork(R0, 32);
    const uint32_t mask = kAllBits << (settings_.host_bits & 0xff);
    if (mask != kAllBits) code_.Calculate32(BPF_AND, R0, static_cast<int32_t>(mask));
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

  // kFlags = flags of the address at stack[address], 0 when it is not known.
  void LookUpAddress(int address) {
    const Assembler::Label unknown = code_.NewLabel();
    const Assembler::Label found = code_.NewLabel();
    code_.MoveValue(kFlags, 0);
    LookUp(maps_.addresses, R10, address);
    code_.JumpIf(BPF_JNE, R0, 0, found);
    LookUpPrefix4(maps_.prefixes, R10, address);
    code_.JumpIf(BPF_JEQ, R0, 0, unknown);
    code_.Bind(found);
    code_.Load(BPF_W, kFlags, R0, 0);
    code_.Bind(unknown);
  }

  const SteeringMaps maps_;
  const SteeringSettings settings_;
};

}  // namespace

}  // namespace bpf

namespace {

class SteeringOwner : public SharedOwner {
 public:
  Failure Open(const bpf::SteeringSettings& settings, uint32_t addresses_max) {
    const auto hash = BPF_MAP_TYPE_HASH, trie = BPF_MAP_TYPE_LPM_TRIE;
    Failure failure = bpf::CreateMap(hash, 4, addresses_max, BPF_F_NO_PREALLOC, "headgate_steer",
                                     &addresses_);
    if (failure) return failure;
    failure = bpf::CreateMap(hash, 16, addresses_max, BPF_F_NO_PREALLOC, "headgate_steer6",
                             &addresses6_);
    if (failure) return failure;
    failure = bpf::CreateMap(trie, sizeof(bpf::PrefixKey), addresses_max, BPF_F_NO_PREALLOC,
                             "headgate_steerp", &prefixes_);
    if (failure) return failure;
    const bpf::SteeringMaps maps{addresses_.get(), addresses6_.get(), prefixes_.get()};
    const std::vector<bpf_insn> code = bpf::SteeringProgram(maps, settings).Build();
    return bpf::LoadProgram(BPF_PROG_TYPE_SOCKET_FILTER, 0, code, "headgate_steer", &program_);
  }

  int program() const { return program_.get(); }

  // words  in host order, IPv4 mapped; bits of the 128, fewer for a prefix
  Failure Set(const uint32_t words[4], uint32_t bits, uint32_t flags) {
    bpf::PrefixKey key{};
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

// createSteering(key0, key1, portMask, workers, addressesMax, hostBits): { programFd, set, close }
Napi::Value CreateSteering(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto number = [&info](size_t index) {
    return static_cast<uint32_t>(info[index].ToNumber().Int32Value());
  };
  auto* steering = new SteeringOwner();
  const bpf::SteeringSettings settings{
      {number(0), number(1)}, number(2), static_cast<int>(number(3)), number(5)};
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

// The guard: a TCX ingress program that drops the kernel's copy of the packets that the gateway
// owns. It runs after the AF_PACKET tap (net/core/dev.c, __netif_receive_skb_core: ptype_all, then
// sch_handle_ingress), so the gateway still sees them.
//
// One program serves every interface; a bpf_link holds it on each. Without a pin the links live
// exactly as long as this process, SIGKILL included. The program reads two maps:
//
//   addresses  hash: address -> flags (kVip, kWhole, kHost, kBackend)
//   ports      longest prefix of {address, protocol, kind, port}: one entry is a block of ports
//
// Only bpf_map_lookup_elem and bpf_skb_load_bytes are called, both older than TCX by years. Made
// with bpf(2) alone: the instructions stand below, so that neither a BPF compiler nor libbpf is
// needed to build or to run.
#include "guard.h"

#include <errno.h>
#include <linux/bpf.h>
#include <sys/syscall.h>

#include <cstring>
#include <string>
#include <vector>

#include "util.h"

namespace {

using headgate::Failure;
using headgate::Fd;
using headgate::Holder;

// include/uapi/linux/bpf.h of Linux 6.6; Debian 12's header is older.
constexpr int kBpfTcxIngress = 46;
constexpr uint32_t kBpfBefore = 1u << 3;  // BPF_F_BEFORE; relative to nothing: first
constexpr int kTcxNext = -1;
constexpr int kTcxDrop = 2;

// Flags of an address: src/host/guard-entries.ts has the same numbers.
constexpr int kVip = 1;      // a VIP that is also the host's address
constexpr int kWhole = 2;    // every packet to it is owned
constexpr int kHost = 4;     // an address of the host
constexpr int kBackend = 8;  // an address of a nat backend

// Kinds of port entries: src/host/guard-entries.ts has the same numbers.
constexpr int kPortsOfVip = 0;
constexpr int kPortsOfBackend = 1;

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

long Bpf(int command, union bpf_attr* attr) {
  return syscall(__NR_bpf, command, attr, sizeof *attr);
}

uint64_t Pointer(const void* at) { return reinterpret_cast<uint64_t>(at); }

// ---------------------------------------------------------------------------------------------
// Instructions

// A list of BPF instructions with forward jumps to labels that are bound later.
class Assembler {
 public:
  using Label = int;

  Label NewLabel() {
    bound_.push_back(-1);
    return static_cast<Label>(bound_.size()) - 1;
  }
  void Bind(Label label) { bound_[label] = Size(); }

  // dst = src
  void Move(int dst, int src) { Emit(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0); }
  void MoveValue(int dst, int32_t value) { Emit(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value); }
  // dst op= value, with op one of BPF_ADD, BPF_AND, BPF_LSH, BPF_RSH
  void Calculate(int op, int dst, int32_t value) { Emit(BPF_ALU64 | op | BPF_K, dst, 0, 0, value); }
  void Add(int dst, int src) { Emit(BPF_ALU64 | BPF_ADD | BPF_X, dst, src, 0, 0); }
  // dst = *(size*)(src + offset), with size one of BPF_B, BPF_H, BPF_W
  void Load(int size, int dst, int src, int offset) {
    Emit(BPF_LDX | size | BPF_MEM, dst, src, offset, 0);
  }
  // *(size*)(dst + offset) = src, or a value
  void Store(int size, int dst, int offset, int src) {
    Emit(BPF_STX | size | BPF_MEM, dst, src, offset, 0);
  }
  void StoreValue(int size, int dst, int offset, int32_t value) {
    Emit(BPF_ST | size | BPF_MEM, dst, 0, offset, value);
  }
  void LoadMap(int dst, int map) {
    Emit(BPF_LD | BPF_DW | BPF_IMM, dst, BPF_PSEUDO_MAP_FD, 0, map);
    Emit(0, 0, 0, 0, 0);
  }
  void Call(int helper) { Emit(BPF_JMP | BPF_CALL, 0, 0, 0, helper); }
  void Exit() { Emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0); }
  void Jump(Label to) { EmitJump(BPF_JMP | BPF_JA, 0, 0, to); }
  // if (reg op value) goto to; with op one of BPF_JEQ, BPF_JNE, BPF_JSET, BPF_JLT
  void JumpIf(int op, int reg, int32_t value, Label to) {
    EmitJump(BPF_JMP | op | BPF_K, reg, value, to);
  }

  // Fills in the jumps. Every label that is used must be bound.
  std::vector<bpf_insn> Finish() {
    for (const auto& [at, label] : jumps_) {
      code_[at].off = static_cast<int16_t>(bound_[label] - at - 1);
    }
    return std::move(code_);
  }

 private:
  int Size() const { return static_cast<int>(code_.size()); }
  void EmitJump(int opcode, int dst, int32_t value, Label to) {
    jumps_.emplace_back(Size(), to);
    Emit(opcode, dst, 0, 0, value);
  }
  void Emit(int opcode, int dst, int src, int offset, int32_t value) {
    bpf_insn instruction{};
    instruction.code = static_cast<uint8_t>(opcode);
    instruction.dst_reg = static_cast<uint8_t>(dst) & 0xf;
    instruction.src_reg = static_cast<uint8_t>(src) & 0xf;
    instruction.off = static_cast<int16_t>(offset);
    instruction.imm = value;
    code_.push_back(instruction);
  }

  std::vector<bpf_insn> code_;
  std::vector<int> bound_;
  std::vector<std::pair<int, Label>> jumps_;
};

// Registers: r0 result, r1-r5 arguments (lost by a call), r6-r9 kept, r10 frame.
enum { R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 };
constexpr int kContext = R6;   // struct __sk_buff
constexpr int kAt = R7;        // offset in the frame of the header that is looked at next
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

// Where a field of the key lies on the stack.
constexpr int KeyAt(size_t field) { return kKey + static_cast<int>(field); }

constexpr int kEthernetBytes = 14;
constexpr int kIpv4Bytes = 20;
constexpr int kIcmpBytes = 8;

// Numbers of include/uapi/linux/bpf.h, if_packet.h, if_ether.h, in.h and icmp.h.
constexpr int kLookup = 1;      // BPF_FUNC_map_lookup_elem
constexpr int kLoadBytes = 26;  // BPF_FUNC_skb_load_bytes
constexpr int kPacketBroadcast = 1, kPacketMulticast = 2;
constexpr int kIcmp = 1, kTcp = 6, kUdp = 17;
constexpr int kEchoRequest = 8;
// Unreachable, source quench, redirect, time exceeded, parameter problem: they quote a packet.
constexpr int kErrorTypes[] = {3, 4, 5, 11, 12};

constexpr int Network16(int value) { return ((value & 0xff) << 8) | (value >> 8); }
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Network16 swaps: x86-64 and arm64");

class GuardProgram {
 public:
  GuardProgram(int addresses, int ports) : addresses_(addresses), ports_(ports) {}

  std::vector<bpf_insn> Build() {
    next_ = code_.NewLabel();
    drop_ = code_.NewLabel();
    Assembler::Label icmp = code_.NewLabel();

    code_.Move(kContext, R1);
    // Frames to a group are never the gateway's: it leaves them to the kernel too.
    code_.Load(BPF_W, R0, kContext, offsetof(__sk_buff, pkt_type));
    code_.JumpIf(BPF_JEQ, R0, kPacketBroadcast, next_);
    code_.JumpIf(BPF_JEQ, R0, kPacketMulticast, next_);
    code_.Load(BPF_W, R0, kContext, offsetof(__sk_buff, protocol));
    code_.JumpIf(BPF_JNE, R0, Network16(0x0800), next_);
    // A tagged frame belongs to a VLAN interface; the kernel has taken the tag off already.
    code_.Load(BPF_W, R0, kContext, offsetof(__sk_buff, vlan_present));
    code_.JumpIf(BPF_JNE, R0, 0, next_);

    code_.MoveValue(kAt, kEthernetBytes);
    LoadIpHeader();
    LookUpAddress(kDestination, kFlags);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, drop_);
    // A later fragment has no ports.
    code_.Load(BPF_H, R0, R10, kFragment);
    code_.JumpIf(BPF_JSET, R0, Network16(0x1fff), next_);
    code_.JumpIf(BPF_JEQ, kProtocol, kIcmp, icmp);
    LoadPorts();
    Assembler::Label fromBackend = code_.NewLabel();
    SkipUnless(kVip, fromBackend);
    MatchPorts(kPortsOfVip, kDestination, kL4 + 2);
    code_.Bind(fromBackend);
    code_.JumpIf(BPF_JSET, kFlags, kHost, next_);
    MatchBackend(kSource, kL4);
    code_.Jump(next_);

    code_.Bind(icmp);
    BuildIcmp();

    code_.Bind(next_);
    code_.MoveValue(R0, kTcxNext);
    code_.Exit();
    code_.Bind(drop_);
    code_.MoveValue(R0, kTcxDrop);
    code_.Exit();
    return code_.Finish();
  }

 private:
  // At kAt: an ICMP message. Echo requests to a VIP are owned; errors when what they quote is ours.
  void BuildIcmp() {
    Assembler::Label error = code_.NewLabel();
    LoadBytes(kL4, 4);
    code_.Load(BPF_B, R0, R10, kL4);
    for (const int type : kErrorTypes) code_.JumpIf(BPF_JEQ, R0, type, error);
    code_.JumpIf(BPF_JNE, R0, kEchoRequest, next_);
    code_.JumpIf(BPF_JSET, kFlags, kVip, drop_);
    code_.Jump(next_);

    code_.Bind(error);
    code_.Calculate(BPF_ADD, kAt, kIcmpBytes);
    LoadIpHeader();
    // Quoted packets that we sent to a client or from a SNAT address have our address as source.
    LookUpAddress(kSource, kFlags);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, drop_);
    code_.Load(BPF_H, R0, R10, kFragment);
    code_.JumpIf(BPF_JSET, R0, Network16(0x1fff), next_);
    LoadPorts();
    Assembler::Label toBackend = code_.NewLabel();
    SkipUnless(kVip, toBackend);
    MatchPorts(kPortsOfVip, kSource, kL4);
    code_.Bind(toBackend);
    // Those that we sent on to a nat backend have the client's source, never the host's own.
    code_.JumpIf(BPF_JSET, kFlags, kHost, next_);
    MatchBackend(kDestination, kL4 + 2);
    code_.Jump(next_);
  }

  // stack[to..to+bytes) = frame[kAt..); what is too short is left alone.
  void LoadBytes(int to, int bytes) {
    code_.Move(R1, kContext);
    code_.Move(R2, kAt);
    code_.Move(R3, R10);
    code_.Calculate(BPF_ADD, R3, to);
    code_.MoveValue(R4, bytes);
    code_.Call(kLoadBytes);
    code_.JumpIf(BPF_JNE, R0, 0, next_);
  }

  // Loads the header at kAt, moves kAt behind it (options included), sets kProtocol.
  void LoadIpHeader() {
    LoadBytes(kHeader, kIpv4Bytes);
    code_.Load(BPF_B, R0, R10, kVersionIhl);
    code_.Move(R1, R0);
    code_.Calculate(BPF_RSH, R1, 4);
    code_.JumpIf(BPF_JNE, R1, 4, next_);
    code_.Calculate(BPF_AND, R0, 15);
    code_.JumpIf(BPF_JLT, R0, kIpv4Bytes / 4, next_);
    code_.Calculate(BPF_LSH, R0, 2);
    code_.Add(kAt, R0);
    code_.Load(BPF_B, kProtocol, R10, kIpProtocol);
  }

  // Ports of TCP and UDP; other protocols are left alone.
  void LoadPorts() {
    Assembler::Label known = code_.NewLabel();
    code_.JumpIf(BPF_JEQ, kProtocol, kTcp, known);
    code_.JumpIf(BPF_JNE, kProtocol, kUdp, next_);
    code_.Bind(known);
    LoadBytes(kL4, 4);
  }

  // flags = flags of the address at stack[address], 0 when it is not known.
  void LookUpAddress(int address, int flags) {
    Assembler::Label unknown = code_.NewLabel();
    code_.MoveValue(flags, 0);
    LookUp(addresses_, address);
    code_.JumpIf(BPF_JEQ, R0, 0, unknown);
    code_.Load(BPF_W, flags, R0, 0);
    code_.Bind(unknown);
  }

  void SkipUnless(int flag, Assembler::Label to) {
    Assembler::Label has = code_.NewLabel();
    code_.JumpIf(BPF_JSET, kFlags, flag, has);
    code_.Jump(to);
    code_.Bind(has);
  }

  // Drops when stack[address] is a nat backend's, and stack[port] one of its ports.
  void MatchBackend(int address, int port) {
    Assembler::Label other = code_.NewLabel();
    LookUpAddress(address, kFlags);
    SkipUnless(kBackend, other);
    MatchPorts(kPortsOfBackend, address, port);
    code_.Bind(other);
  }

  // Drops when the port map has stack[port] for this kind, kProtocol and stack[address].
  void MatchPorts(int kind, int address, int port) {
    code_.StoreValue(BPF_W, R10, KeyAt(offsetof(PortKey, bits)), kFixedBits + 16);
    code_.Load(BPF_W, R0, R10, address);
    code_.Store(BPF_W, R10, KeyAt(offsetof(PortKey, address)), R0);
    code_.Store(BPF_B, R10, KeyAt(offsetof(PortKey, protocol)), kProtocol);
    code_.StoreValue(BPF_B, R10, KeyAt(offsetof(PortKey, kind)), kind);
    code_.Load(BPF_H, R0, R10, port);
    code_.Store(BPF_H, R10, KeyAt(offsetof(PortKey, port)), R0);
    LookUp(ports_, kKey);
    code_.JumpIf(BPF_JNE, R0, 0, drop_);
  }

  // r0 = pointer to the value for the key at stack[key], or 0.
  void LookUp(int map, int key) {
    code_.LoadMap(R1, map);
    code_.Move(R2, R10);
    code_.Calculate(BPF_ADD, R2, key);
    code_.Call(kLookup);
  }

  Assembler code_;
  Assembler::Label next_ = 0;
  Assembler::Label drop_ = 0;
  const int addresses_;
  const int ports_;
};

// ---------------------------------------------------------------------------------------------
// Maps, program, links

constexpr char kLicense[] = "MIT";
constexpr char kName[] = "headgate_guard";

Failure CreateMap(uint32_t type, uint32_t keyBytes, uint32_t entriesMax, const char* name, Fd* map) {
  union bpf_attr attr {};
  attr.map_type = type;
  attr.key_size = keyBytes;
  attr.value_size = sizeof(uint32_t);
  attr.max_entries = entriesMax;
  attr.map_flags = BPF_F_NO_PREALLOC;
  std::strncpy(attr.map_name, name, sizeof attr.map_name - 1);
  *map = Fd(static_cast<int>(Bpf(BPF_MAP_CREATE, &attr)));
  if (!map->ok()) return {errno, "bpf(MAP_CREATE)", name};
  return {};
}

Failure LoadProgram(int addresses, int ports, Fd* program) {
  const std::vector<bpf_insn> code = GuardProgram(addresses, ports).Build();
  union bpf_attr attr {};
  attr.prog_type = BPF_PROG_TYPE_SCHED_CLS;
  attr.expected_attach_type = kBpfTcxIngress;
  attr.insns = Pointer(code.data());
  attr.insn_cnt = static_cast<uint32_t>(code.size());
  attr.license = Pointer(kLicense);
  std::strncpy(attr.prog_name, kName, sizeof attr.prog_name - 1);
  *program = Fd(static_cast<int>(Bpf(BPF_PROG_LOAD, &attr)));
  if (program->ok()) return {};
  const int code_of_failure = errno;
  // Asked again with a log: the verifier's last words belong into the message.
  std::vector<char> log(64 * 1024, '\0');
  attr.log_buf = Pointer(log.data());
  attr.log_size = static_cast<uint32_t>(log.size());
  attr.log_level = 1;
  const Fd again(static_cast<int>(Bpf(BPF_PROG_LOAD, &attr)));
  const std::string said(log.data());
  const size_t tail = said.size() > 400 ? said.size() - 400 : 0;
  return {code_of_failure, "bpf(PROG_LOAD)", said.empty() ? kName : said.substr(tail)};
}

// The interface that a pinned link is on: its index, 0 when that interface is gone, -1 (and a
// failure, ENOENT when there is no pin) otherwise.
int PinnedInterface(const std::string& path, Fd* link, Failure* failure) {
  union bpf_attr attr {};
  attr.pathname = Pointer(path.c_str());
  *link = Fd(static_cast<int>(Bpf(BPF_OBJ_GET, &attr)));
  if (!link->ok()) {
    *failure = {errno, "bpf(OBJ_GET)", path};
    return -1;
  }
  // struct bpf_link_info: type, id, prog_id, then for TCX ifindex and attach_type.
  uint32_t information[32] = {};
  attr = {};
  attr.info.bpf_fd = static_cast<uint32_t>(link->get());
  attr.info.info = Pointer(information);
  attr.info.info_len = sizeof information;
  if (Bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) < 0) {
    *failure = {errno, "bpf(OBJ_GET_INFO_BY_FD)", path};
    return -1;
  }
  return static_cast<int>(information[4]);
}

class GuardOwner : public headgate::SharedOwner {
 public:
  Failure Open(uint32_t addressesMax, uint32_t portsMax) {
    Failure failure =
        CreateMap(BPF_MAP_TYPE_HASH, sizeof(uint32_t), addressesMax, "headgate_addr", &addresses_);
    if (failure) return failure;
    failure =
        CreateMap(BPF_MAP_TYPE_LPM_TRIE, sizeof(PortKey), portsMax, "headgate_ports", &ports_);
    if (failure) return failure;
    return LoadProgram(addresses_.get(), ports_.get(), &program_);
  }

  Failure SetAddress(uint32_t address, uint32_t flags) {
    const uint32_t key = htonl_(address);
    return Update(addresses_, &key, flags, "addresses");
  }
  Failure RemoveAddress(uint32_t address) {
    const uint32_t key = htonl_(address);
    return Remove(addresses_, &key, "addresses");
  }
  Failure SetPorts(const PortKey& key) { return Update(ports_, &key, 1, "ports"); }
  Failure RemovePorts(const PortKey& key) { return Remove(ports_, &key, "ports"); }

  // Puts the program on an interface; with a pin, in the place of the program that is pinned there.
  Failure Attach(int interfaceIndex, const std::string& pin, bool* replaced) {
    *replaced = false;
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
    union bpf_attr attr {};
    attr.link_create.prog_fd = static_cast<uint32_t>(program_.get());
    attr.link_create.target_ifindex = static_cast<uint32_t>(interfaceIndex);
    attr.link_create.attach_type = kBpfTcxIngress;
    // First: a program before us that accepts a packet would hide it from the guard.
    attr.link_create.flags = kBpfBefore;
    Fd link(static_cast<int>(Bpf(BPF_LINK_CREATE, &attr)));
    if (!link.ok()) return {errno, "bpf(LINK_CREATE)", "interface " + std::to_string(interfaceIndex)};
    if (!pin.empty()) {
      attr = {};
      attr.pathname = Pointer(pin.c_str());
      attr.bpf_fd = static_cast<uint32_t>(link.get());
      if (Bpf(BPF_OBJ_PIN, &attr) < 0) return {errno, "bpf(OBJ_PIN)", pin};
    }
    links_.push_back(std::move(link));
    return {};
  }

  void Release() override {
    links_.clear();
    program_.Close();
    ports_.Close();
    addresses_.Close();
  }

 private:
  static uint32_t htonl_(uint32_t value) { return __builtin_bswap32(value); }

  static Failure Update(const Fd& map, const void* key, uint32_t value, const char* name) {
    union bpf_attr attr {};
    attr.map_fd = static_cast<uint32_t>(map.get());
    attr.key = Pointer(key);
    attr.value = Pointer(&value);
    attr.flags = BPF_ANY;
    if (Bpf(BPF_MAP_UPDATE_ELEM, &attr) < 0) return {errno, "bpf(MAP_UPDATE_ELEM)", name};
    return {};
  }
  static Failure Remove(const Fd& map, const void* key, const char* name) {
    union bpf_attr attr {};
    attr.map_fd = static_cast<uint32_t>(map.get());
    attr.key = Pointer(key);
    if (Bpf(BPF_MAP_DELETE_ELEM, &attr) < 0 && errno != ENOENT) {
      return {errno, "bpf(MAP_DELETE_ELEM)", name};
    }
    return {};
  }

  Fd addresses_;
  Fd ports_;
  Fd program_;
  std::vector<Fd> links_;
};

// ---------------------------------------------------------------------------------------------
// Node-API. Arguments were checked in src/device/guard-native.ts.

constexpr size_t kArgumentsMax = 5;

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
  PortKey Ports() const {
    PortKey key{};
    key.bits = kFixedBits + static_cast<uint32_t>(Integer(4));
    key.kind = static_cast<uint8_t>(Integer(0));
    key.protocol = static_cast<uint8_t>(Integer(1));
    key.address = __builtin_bswap32(static_cast<uint32_t>(Integer(2)));
    key.port = __builtin_bswap16(static_cast<uint16_t>(Integer(3)));
    return key;
  }

 private:
  napi_env env_;
};

void ThrowIf(napi_env env, const Failure& failure) {
  if (failure) headgate::Throw(env, failure);
}

napi_value CallSetAddress(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  ThrowIf(env, call.guard->SetAddress(static_cast<uint32_t>(call.Integer(0)),
                                      static_cast<uint32_t>(call.Integer(1))));
  return nullptr;
}

napi_value CallRemoveAddress(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  ThrowIf(env, call.guard->RemoveAddress(static_cast<uint32_t>(call.Integer(0))));
  return nullptr;
}

napi_value CallSetPorts(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  ThrowIf(env, call.guard->SetPorts(call.Ports()));
  return nullptr;
}

napi_value CallRemovePorts(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  ThrowIf(env, call.guard->RemovePorts(call.Ports()));
  return nullptr;
}

std::string TextOf(napi_env env, napi_value value) {
  size_t bytes = 0;
  napi_get_value_string_utf8(env, value, nullptr, 0, &bytes);
  std::string text(bytes, '\0');
  napi_get_value_string_utf8(env, value, text.data(), bytes + 1, &bytes);
  return text;
}

// attach(interfaceIndex, pin): whether a pinned program was replaced.
napi_value CallAttach(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.guard == nullptr) return nullptr;
  bool replaced = false;
  ThrowIf(env, call.guard->Attach(call.Integer(0), TextOf(env, call.arguments[1]), &replaced));
  napi_value result = nullptr;
  napi_get_boolean(env, replaced, &result);
  return result;
}

napi_value CallClose(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  static_cast<Holder*>(data)->Close();
  return nullptr;
}

// createGuard(addressesMax, portsMax)
Napi::Value CreateGuard(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto* guard = new GuardOwner();
  const Failure failure =
      guard->Open(info[0].As<Napi::Number>().Uint32Value(), info[1].As<Napi::Number>().Uint32Value());
  if (failure) {
    delete guard;
    headgate::Throw(env, failure);
    return env.Undefined();
  }
  Holder* holder = Holder::Make(env, guard);
  napi_value result = nullptr;
  napi_create_object(env, &result);
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

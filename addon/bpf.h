// bpf(2) without a compiler and without libbpf: instructions written down one by one, maps,
// programs and links. docs/decisions/0003-bpf-without-a-compiler.md says why.
#ifndef HEADGATE_ADDON_BPF_H_
#define HEADGATE_ADDON_BPF_H_

#include <errno.h>
#include <linux/bpf.h>
#include <sys/syscall.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "own.h"

namespace headgate::bpf {

inline long Bpf(int command, union bpf_attr* attr) {
  return syscall(__NR_bpf, command, attr, sizeof *attr);
}

inline uint64_t Pointer(const void* at) { return reinterpret_cast<uint64_t>(at); }

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
  // The same on the low 32 bits, with op one of BPF_ADD, BPF_AND, BPF_MOD, BPF_MUL, BPF_RSH, BPF_XOR;
  // the high ones become 0.
  void Calculate32(int op, int dst, int32_t value) { Emit(BPF_ALU | op | BPF_K, dst, 0, 0, value); }
  void Combine32(int op, int dst, int src) { Emit(BPF_ALU | op | BPF_X, dst, src, 0, 0); }
  // dst = its low 16 or 32 bits from network to host order
  void FromNetwork(int dst, int bits) { Emit(BPF_ALU | BPF_END | BPF_TO_BE, dst, 0, 0, bits); }
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
  // if (reg op other) goto to; with op one of BPF_JEQ, BPF_JNE, BPF_JGT
  void JumpIfReg(int op, int reg, int other, Label to) {
    EmitJump(BPF_JMP | op | BPF_X, reg, 0, to, other);
  }
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
  void EmitJump(int opcode, int dst, int32_t value, Label to, int src = 0) {
    jumps_.emplace_back(Size(), to);
    Emit(opcode, dst, src, 0, value);
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

// ---------------------------------------------------------------------------------------------
// Maps, programs, links

inline Failure CreateMap(uint32_t type, uint32_t keyBytes, uint32_t entriesMax, uint32_t flags,
                         const char* name, Fd* map) {
  union bpf_attr attr {};
  attr.map_type = type;
  attr.key_size = keyBytes;
  attr.value_size = sizeof(uint32_t);
  attr.max_entries = entriesMax;
  attr.map_flags = flags;
  std::strncpy(attr.map_name, name, sizeof attr.map_name - 1);
  *map = Fd(static_cast<int>(Bpf(BPF_MAP_CREATE, &attr)));
  if (!map->ok()) return {errno, "bpf(MAP_CREATE)", name};
  return {};
}

inline Failure UpdateMap(const Fd& map, const void* key, uint32_t value, const char* name) {
  union bpf_attr attr {};
  attr.map_fd = static_cast<uint32_t>(map.get());
  attr.key = Pointer(key);
  attr.value = Pointer(&value);
  attr.flags = BPF_ANY;
  if (Bpf(BPF_MAP_UPDATE_ELEM, &attr) < 0) return {errno, "bpf(MAP_UPDATE_ELEM)", name};
  return {};
}

// Removing what is not there is fine.
inline Failure RemoveFromMap(const Fd& map, const void* key, const char* name) {
  union bpf_attr attr {};
  attr.map_fd = static_cast<uint32_t>(map.get());
  attr.key = Pointer(key);
  if (Bpf(BPF_MAP_DELETE_ELEM, &attr) < 0 && errno != ENOENT) {
    return {errno, "bpf(MAP_DELETE_ELEM)", name};
  }
  return {};
}

constexpr int kLoadTriesMax = 20;

// When the kernel refuses, the verifier's last words are the subject of the failure.
inline Failure LoadProgram(uint32_t type, uint32_t attachType, const std::vector<bpf_insn>& code,
                           const char* name, Fd* program) {
  union bpf_attr attr {};
  attr.prog_type = type;
  attr.expected_attach_type = attachType;
  attr.insns = Pointer(code.data());
  attr.insn_cnt = static_cast<uint32_t>(code.size());
  attr.license = Pointer("MIT");
  std::strncpy(attr.prog_name, name, sizeof attr.prog_name - 1);
  // The verifier stops with EAGAIN when a signal is pending (do_check() in kernel/bpf/verifier.c),
  // such as the SIGCHLD of an `ip` that has just ended; the next try is as good as the first.
  for (int tries = 0; tries < kLoadTriesMax; ++tries) {
    *program = Fd(static_cast<int>(Bpf(BPF_PROG_LOAD, &attr)));
    if (program->ok()) return {};
    if (errno != EAGAIN) break;
  }
  const int code_of_failure = errno;
  std::vector<char> log(64 * 1024, '\0');
  attr.log_buf = Pointer(log.data());
  attr.log_size = static_cast<uint32_t>(log.size());
  attr.log_level = 1;
  const Fd again(static_cast<int>(Bpf(BPF_PROG_LOAD, &attr)));
  const std::string said(log.data());
  const size_t tail = said.size() > 400 ? said.size() - 400 : 0;
  return {code_of_failure, "bpf(PROG_LOAD)", said.empty() ? name : said.substr(tail)};
}

// The interface that a pinned link is on: its index, 0 when that interface is gone, -1 (and a
// failure, ENOENT when there is no pin) otherwise.
inline int PinnedInterface(const std::string& path, Fd* link, Failure* failure) {
  union bpf_attr attr {};
  attr.pathname = Pointer(path.c_str());
  *link = Fd(static_cast<int>(Bpf(BPF_OBJ_GET, &attr)));
  if (!link->ok()) {
    *failure = {errno, "bpf(OBJ_GET)", path};
    return -1;
  }
  // struct bpf_link_info: type, id, prog_id, then for TCX and XDP ifindex.
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

}  // namespace headgate::bpf

#endif  // HEADGATE_ADDON_BPF_H_

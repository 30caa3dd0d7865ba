// What the programs that look into packets share (ownership.h, steering.cc): registers, a stack
// frame, and how headers and ports come there.
#ifndef HEADGATE_ADDON_PACKET_PROGRAM_H_
#define HEADGATE_ADDON_PACKET_PROGRAM_H_

#include <cstddef>
#include <cstdint>

#include "bpf.h"

namespace headgate::bpf {

constexpr int kContext = R6;   // struct __sk_buff or xdp_md
constexpr int kAt = R7;        // offset of the header that is looked at next
constexpr int kFlags = R8;     // flags of the address that decides
constexpr int kProtocol = R9;  // IP protocol

// The stack frame, relative to r10.
constexpr int kHeader = -24;  // an IPv4 header without options, 20 bytes
constexpr int kVersionIhl = kHeader + 0;
constexpr int kFragment = kHeader + 6;
constexpr int kIpProtocol = kHeader + 9;
constexpr int kSource = kHeader + 12;
constexpr int kDestination = kHeader + 16;
constexpr int kL4 = -32;  // source and destination port, or type and code of ICMP; 4 bytes

// Between the two, what a program has of its own; of IPv6:
constexpr int kHeader6 = -96;  // the fixed header, 40 bytes
constexpr int kNextHeader6 = kHeader6 + 6;
constexpr int kHopLimit6 = kHeader6 + 7;
constexpr int kSource6 = kHeader6 + 8;
constexpr int kDestination6 = kHeader6 + 24;
constexpr int kExtension6 = -104;  // the first 8 bytes of an extension header
constexpr int kFragment6 = -108;   // offset and flags of the Fragment header, or 0; 2 bytes
constexpr int kPrefixKey = -136;   // struct PrefixKey

// Key of a map of prefixes for both families (struct bpf_lpm_trie_key); IPv4 as ::ffff:a.b.c.d.
struct PrefixKey {
  uint32_t bits;  // of 128
  uint8_t address[16];
};
static_assert(sizeof(PrefixKey) == 20, "the key has no padding: the kernel compares bytes");

constexpr int kIpv4Bytes = 20;
constexpr int kIpv6Bytes = 40;
constexpr int kIcmpBytes = 8;

// Numbers of include/uapi/linux/bpf.h, in.h and icmp.h.
constexpr int kLookup = 1;              // BPF_FUNC_map_lookup_elem
constexpr int kSkbLoadBytes = 26;       // BPF_FUNC_skb_load_bytes
constexpr int kLoadBytesRelative = 68;  // BPF_FUNC_skb_load_bytes_relative, Linux 4.18
constexpr int kXdpLoadBytes = 189;      // BPF_FUNC_xdp_load_bytes, Linux 5.18
constexpr int kFromNetworkHeader = 1;   // BPF_HDR_START_NET
constexpr int kIcmp = 1, kTcp = 6, kUdp = 17;
// Unreachable, source quench, redirect, time exceeded, parameter problem: they quote a packet.
constexpr int kErrorTypes[] = {3, 4, 5, 11, 12};
constexpr int kFragmentOffset = 0x1fff;
constexpr int kFragmentBits = 0x3fff;  // and More Fragments
constexpr int kIcmp6 = 58;
// Unreachable, too big, time exceeded, parameter problem.
constexpr int kErrorTypes6[] = {1, 2, 3, 4};
constexpr int kFragmentOffset6 = 0xfff8;
constexpr int kFragmentBits6 = 0xfff9;  // and More Fragments
// Extension headers of IPv6 that are walked, and how many: a packet with more, or with another one,
// has no transport header that anybody here looks for.
constexpr int kHopByHop = 0, kRouting = 43, kFragmentHeader = 44, kDestinationOptions = 60;
constexpr int kExtensionsMax = 8;

constexpr int Network16(int value) { return ((value & 0xff) << 8) | (value >> 8); }
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Network16 swaps: x86-64 and arm64");

class PacketProgram {
 protected:
  // load_bytes_ is the helper that copies from the packet: its offsets are relative to the frame,
  // those of kLoadBytesRelative to the network header.
  int load_bytes_ = kSkbLoadBytes;
  Assembler code_;
  // Where everything goes that is too short, no IPv4, or of no protocol that matters.
  Assembler::Label other_ = 0;

  // stack[to..to+bytes) = packet[kAt..)
  void LoadBytes(int to, int bytes) {
    code_.Move(R1, kContext);
    code_.Move(R2, kAt);
    code_.Move(R3, R10);
    code_.Calculate(BPF_ADD, R3, to);
    code_.MoveValue(R4, bytes);
    if (load_bytes_ == kLoadBytesRelative) code_.MoveValue(R5, kFromNetworkHeader);
    code_.Call(load_bytes_);
    code_.JumpIf(BPF_JNE, R0, 0, other_);
  }

  // Loads the header at kAt, moves kAt behind it (options included), sets kProtocol.
  void LoadIpHeader() {
    LoadBytes(kHeader, kIpv4Bytes);
    code_.Load(BPF_B, R0, R10, kVersionIhl);
    code_.Move(R1, R0);
    code_.Calculate(BPF_RSH, R1, 4);
    code_.JumpIf(BPF_JNE, R1, 4, other_);
    code_.Calculate(BPF_AND, R0, 15);
    code_.JumpIf(BPF_JLT, R0, kIpv4Bytes / 4, other_);
    code_.Calculate(BPF_LSH, R0, 2);
    code_.Add(kAt, R0);
    code_.Load(BPF_B, kProtocol, R10, kIpProtocol);
  }

  // A later fragment has no ports.
  void RefuseLaterFragment() {
    code_.Load(BPF_H, R0, R10, kFragment);
    code_.JumpIf(BPF_JSET, R0, Network16(kFragmentOffset), other_);
  }

  // Ports of TCP and UDP.
  void LoadPorts() {
    const Assembler::Label known = code_.NewLabel();
    code_.JumpIf(BPF_JEQ, kProtocol, kTcp, known);
    code_.JumpIf(BPF_JNE, kProtocol, kUdp, other_);
    code_.Bind(known);
    LoadBytes(kL4, 4);
  }

  // Loads the fixed header of IPv6 at kAt, moves kAt behind it, sets kProtocol to what is next.
  void LoadIpHeader6() {
    LoadBytes(kHeader6, kIpv6Bytes);
    code_.Load(BPF_B, R0, R10, kHeader6);
    code_.Calculate(BPF_RSH, R0, 4);
    code_.JumpIf(BPF_JNE, R0, 6, other_);
    code_.Calculate(BPF_ADD, kAt, kIpv6Bytes);
    code_.Load(BPF_B, kProtocol, R10, kNextHeader6);
  }

  // Moves kAt behind the extension headers, sets kProtocol and kFragment6. Stops at the Fragment
  // header of a later fragment: what follows is data.
  void WalkHeaders6() {
    constexpr int kVariable[] = {kHopByHop, kRouting, kDestinationOptions};
    const Assembler::Label done = code_.NewLabel();
    code_.StoreValue(BPF_H, R10, kFragment6, 0);
    for (int walked = 0; walked < kExtensionsMax; walked += 1) {
      const Assembler::Label variable = code_.NewLabel();
      const Assembler::Label next = code_.NewLabel();
      for (const int header : kVariable) code_.JumpIf(BPF_JEQ, kProtocol, header, variable);
      code_.JumpIf(BPF_JNE, kProtocol, kFragmentHeader, done);
      LoadBytes(kExtension6, 8);
      code_.Calculate(BPF_ADD, kAt, 8);
      code_.Load(BPF_B, kProtocol, R10, kExtension6);
      code_.Load(BPF_H, R0, R10, kExtension6 + 2);
      code_.Store(BPF_H, R10, kFragment6, R0);
      code_.JumpIf(BPF_JSET, R0, Network16(kFragmentOffset6), done);
      code_.Jump(next);
      code_.Bind(variable);
      LoadBytes(kExtension6, 8);
      code_.Load(BPF_B, kProtocol, R10, kExtension6);
      code_.Load(BPF_B, R0, R10, kExtension6 + 1);
      code_.Calculate(BPF_ADD, R0, 1);
      code_.Calculate(BPF_LSH, R0, 3);
      code_.Add(kAt, R0);
      code_.Bind(next);
    }
    code_.Bind(done);
  }

  void RefuseLaterFragment6() {
    code_.Load(BPF_H, R0, R10, kFragment6);
    code_.JumpIf(BPF_JSET, R0, Network16(kFragmentOffset6), other_);
  }

  // r0 = pointer to the value of the longest prefix that has the IPv4 address at base + offset, or 0.
  void LookUpPrefix4(int prefixes, int base, int offset) {
    code_.StoreValue(BPF_W, R10, kPrefixKey, 128);
    code_.StoreValue(BPF_W, R10, kPrefixKey + 4, 0);
    code_.StoreValue(BPF_W, R10, kPrefixKey + 8, 0);
    code_.StoreValue(BPF_W, R10, kPrefixKey + 12, static_cast<int32_t>(0xffff0000));
    code_.Load(BPF_W, R0, base, offset);
    code_.Store(BPF_W, R10, kPrefixKey + 16, R0);
    LookUp(prefixes, R10, kPrefixKey);
  }

  // kFlags = flags of the IPv6 address at stack[address], or of the longest prefix that has it, or 0.
  void LookUpFlags6(int addresses, int prefixes, int address) {
    const Assembler::Label found = code_.NewLabel();
    const Assembler::Label done = code_.NewLabel();
    code_.MoveValue(kFlags, 0);
    LookUp(addresses, R10, address);
    code_.JumpIf(BPF_JNE, R0, 0, found);
    code_.StoreValue(BPF_W, R10, kPrefixKey, 128);
    CopyAddress6(kPrefixKey + static_cast<int>(offsetof(PrefixKey, address)), address);
    LookUp(prefixes, R10, kPrefixKey);
    code_.JumpIf(BPF_JEQ, R0, 0, done);
    code_.Bind(found);
    code_.Load(BPF_W, kFlags, R0, 0);
    code_.Bind(done);
  }

  // stack[to..to+16) = stack[from..from+16)
  void CopyAddress6(int to, int from) {
    for (int at = 0; at < 16; at += 4) {
      code_.Load(BPF_W, R0, R10, from + at);
      code_.Store(BPF_W, R10, to + at, R0);
    }
  }

  // r0 = pointer to the value for the key at base + offset, or 0.
  void LookUp(int map, int base, int offset) {
    code_.LoadMap(R1, map);
    code_.Move(R2, base);
    code_.Calculate(BPF_ADD, R2, offset);
    code_.Call(kLookup);
  }
};

}  // namespace headgate::bpf

#endif  // HEADGATE_ADDON_PACKET_PROGRAM_H_

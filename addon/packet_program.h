// What the programs that look into packets share (ownership.h, steering.cc): registers, a stack
// frame, and how headers and ports come there.
#ifndef HEADGATE_ADDON_PACKET_PROGRAM_H_
#define HEADGATE_ADDON_PACKET_PROGRAM_H_

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

constexpr int kIpv4Bytes = 20;
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

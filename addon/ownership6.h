// The part of the ownership program that judges IPv6 packets (design 1.9): the same questions as for
// IPv4, asked of other maps, by copies on the stack, and two more:
//
//   Extension headers are walked to the transport header, within a bound (packet_program.h). A packet
//   with more of them is judged by its destination alone.
//
//   A neighbour solicitation for an address that is all ours is the gateway's to answer (RFC 4861
//   section 7.2), although it comes in a frame to a group. For TCX there is nothing to do: the socket
//   has seen it, and the kernel has no such address. All other discovery is the kernel's.
#ifndef HEADGATE_ADDON_OWNERSHIP6_H_
#define HEADGATE_ADDON_OWNERSHIP6_H_

#include <cstddef>
#include <cstdint>

#include "ownership_keys.h"
#include "packet_program.h"

namespace headgate::bpf {

// The stack frame, below what packet_program.h has there.
constexpr int kSolicitation = -160;  // a neighbour solicitation: type to target, 24 bytes
constexpr int kTarget = kSolicitation + 8;
constexpr int kKey6 = -184;  // struct PortKey6

// Where a field of the key lies on the stack.
constexpr int Key6At(size_t field) { return kKey6 + static_cast<int>(field); }

constexpr int kEchoRequest6 = 128, kNeighbourSolicitation = 135;

class OwnershipProgram6 : protected PacketProgram {
 protected:
  explicit OwnershipProgram6(const OwnershipMaps& maps) : maps_(maps) {}

  // Ends at `other_` or `owned_`.
  //
  // sees_groups  frames to a group come here too
  void BuildIpv6(bool sees_groups) {
    const Assembler::Label icmp = code_.NewLabel();
    const Assembler::Label from_backend = code_.NewLabel();
    if (sees_groups) BuildGroups();
    code_.MoveValue(kAt, kEthernetBytes);
    LoadIpHeader6();
    LookUpAddress6(kDestination6);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    WalkHeaders6();
    MatchLaterFragment6();
    code_.JumpIf(BPF_JEQ, kProtocol, kIcmp6, icmp);
    LoadPorts();
    SkipUnless(kVip, from_backend);
    MatchPorts6(kPortsOfVip, kDestination6, kL4 + 2);
    code_.Bind(from_backend);
    code_.JumpIf(BPF_JSET, kFlags, kHost, other_);
    MatchBackend6(kSource6, kL4);
    code_.Jump(other_);
    code_.Bind(icmp);
    BuildIcmp6();
  }

  void SkipUnless(int flag, Assembler::Label to) {
    Assembler::Label has = code_.NewLabel();
    code_.JumpIf(BPF_JSET, kFlags, flag, has);
    code_.Jump(to);
    code_.Bind(has);
  }

  // Ours.
  Assembler::Label owned_ = 0;
  const OwnershipMaps maps_;

 private:
  // A frame to a group is owned when it is a solicitation for an address that is all ours; others go
  // on behind. Extension headers before it are not looked for: nobody sends them.
  void BuildGroups() {
    const Assembler::Label to_us = code_.NewLabel();
    const Assembler::Label to_group = code_.NewLabel();
    code_.MoveValue(kAt, 0);
    LoadBytes(kExtension6, 4);
    code_.Load(BPF_B, R0, R10, kExtension6);
    code_.JumpIf(BPF_JSET, R0, 1, to_group);
    code_.Jump(to_us);
    code_.Bind(to_group);
    code_.MoveValue(kAt, kEthernetBytes);
    LoadIpHeader6();
    code_.JumpIf(BPF_JNE, kProtocol, kIcmp6, other_);
    // From the link itself, not through a router (RFC 4861 section 7.1.1).
    code_.Load(BPF_B, R0, R10, kHopLimit6);
    code_.JumpIf(BPF_JNE, R0, 255, other_);
    LoadBytes(kSolicitation, 24);
    code_.Load(BPF_B, R0, R10, kSolicitation);
    code_.JumpIf(BPF_JNE, R0, kNeighbourSolicitation, other_);
    LookUpAddress6(kTarget);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    code_.Jump(other_);
    code_.Bind(to_us);
  }

  // See MatchLaterFragment() of ownership.h.
  void MatchLaterFragment6() {
    const Assembler::Label whole = code_.NewLabel();
    const Assembler::Label known = code_.NewLabel();
    code_.Load(BPF_H, R0, R10, kFragment6);
    code_.Calculate(BPF_AND, R0, Network16(kFragmentOffset6));
    code_.JumpIf(BPF_JEQ, R0, 0, whole);
    code_.JumpIf(BPF_JSET, kFlags, kHost, other_);
    code_.JumpIf(BPF_JEQ, kProtocol, kTcp, known);
    code_.JumpIf(BPF_JNE, kProtocol, kUdp, other_);
    code_.Bind(known);
    LookUpAddress6(kSource6);
    code_.JumpIf(BPF_JSET, kFlags, kBackend, owned_);
    code_.Jump(other_);
    code_.Bind(whole);
  }

  // At kAt: an ICMPv6 message. Echo requests to a VIP are owned; errors when what they quote is ours.
  void BuildIcmp6() {
    const Assembler::Label error = code_.NewLabel();
    const Assembler::Label to_backend = code_.NewLabel();
    LoadBytes(kL4, 4);
    code_.Load(BPF_B, R0, R10, kL4);
    for (const int type : kErrorTypes6) code_.JumpIf(BPF_JEQ, R0, type, error);
    code_.JumpIf(BPF_JNE, R0, kEchoRequest6, other_);
    code_.JumpIf(BPF_JSET, kFlags, kVip, owned_);
    code_.Jump(other_);

    code_.Bind(error);
    code_.Calculate(BPF_ADD, kAt, kIcmpBytes);
    LoadIpHeader6();
    // Quoted packets that we sent to a client or from a SNAT address have our address as source.
    LookUpAddress6(kSource6);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    WalkHeaders6();
    RefuseLaterFragment6();
    LoadPorts();
    SkipUnless(kVip, to_backend);
    MatchPorts6(kPortsOfVip, kSource6, kL4);
    code_.Bind(to_backend);
    // Those that we sent on to a nat backend have the client's source, never the host's own.
    code_.JumpIf(BPF_JSET, kFlags, kHost, other_);
    MatchBackend6(kDestination6, kL4 + 2);
    code_.Jump(other_);
  }

  // kFlags = flags of the address at stack[address], 0 when it is not known.
  void LookUpAddress6(int address) { LookUpFlags6(maps_.addresses6, maps_.prefixes, address); }

  // Owned when stack[address] is a nat backend's, and stack[port] one of its ports.
  void MatchBackend6(int address, int port) {
    const Assembler::Label other = code_.NewLabel();
    LookUpAddress6(address);
    SkipUnless(kBackend, other);
    MatchPorts6(kPortsOfBackend, address, port);
    code_.Bind(other);
  }

  // Owned when the port map has stack[port] for this kind, kProtocol and stack[address].
  void MatchPorts6(int kind, int address, int port) {
    code_.StoreValue(BPF_W, R10, Key6At(offsetof(PortKey6, bits)), kFixedBits6 + 16);
    CopyAddress6(Key6At(offsetof(PortKey6, address)), address);
    code_.Store(BPF_B, R10, Key6At(offsetof(PortKey6, protocol)), kProtocol);
    code_.StoreValue(BPF_B, R10, Key6At(offsetof(PortKey6, kind)), kind);
    code_.Load(BPF_H, R0, R10, port);
    code_.Store(BPF_H, R10, Key6At(offsetof(PortKey6, port)), R0);
    LookUp(maps_.ports6, R10, kKey6);
    code_.JumpIf(BPF_JNE, R0, 0, owned_);
  }
};

}  // namespace headgate::bpf

#endif  // HEADGATE_ADDON_OWNERSHIP6_H_

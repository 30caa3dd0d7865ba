// The part of the ownership program that judges IPv6 packets (design 1.9): the same questions as for
// IPv4, asked of other maps, by copies on the stack, and two more:
//
//   Extension headers are walked to the transport header, at most kExtensionsMax of them. A packet
//   with more, or with one that is not known, is judged by its destination alone.
//
//   A neighbour solicitation for an address that is all ours is the gateway's to answer (RFC 4861
//   section 7.2), although it comes in a frame to a group. For TCX there is nothing to do: the socket
//   has seen it, and the kernel has no such address. All other discovery is the kernel's.
#ifndef HEADGATE_ADDON_OWNERSHIP6_H_
#define HEADGATE_ADDON_OWNERSHIP6_H_

#include <cstddef>
#include <cstdint>

#include "bpf.h"
#include "ownership_keys.h"

namespace headgate::bpf {

class Ownership6 {
 public:
  // load_bytes  helper that copies bytes of the frame to the stack
  Ownership6(Assembler* code, const OwnershipMaps& maps, Assembler::Label other,
             Assembler::Label owned, int load_bytes)
      : code_(*code), maps_(maps), other_(other), owned_(owned), load_bytes_(load_bytes) {}

  // Ends at `other` or `owned`.
  //
  // sees_groups  frames to a group come here too
  void Build(bool sees_groups) {
    Assembler::Label icmp = code_.NewLabel();
    Assembler::Label from_backend = code_.NewLabel();
    code_.MoveValue(kAt, 0);
    if (sees_groups) {
      Assembler::Label to_us = code_.NewLabel();
      LoadBytes(kExtension, 4);
      code_.Load(BPF_B, R0, R10, kExtension);
      Skip(BPF_JSET, R0, 1, to_us);
      code_.MoveValue(kAt, kEthernetBytes);
      BuildSolicitation();
      code_.Bind(to_us);
    }
    code_.MoveValue(kAt, kEthernetBytes);
    LoadIpHeader();
    LookUpAddress(kDestination6);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    WalkHeaders();
    code_.JumpIf(BPF_JEQ, kProtocol, kIcmp6, icmp);
    LoadPorts();
    Skip(BPF_JSET, kFlags, kVip, from_backend);
    MatchPorts(kPortsOfVip, kDestination6, kL4 + 2);
    code_.Bind(from_backend);
    code_.JumpIf(BPF_JSET, kFlags, kHost, other_);
    MatchBackend(kSource6, kL4);
    code_.Jump(other_);
    code_.Bind(icmp);
    BuildIcmp();
  }

 private:
  // In a frame to a group, at kAt: owned when it is a solicitation for an address that is all ours.
  // Extension headers before it are not looked for: nobody sends them.
  void BuildSolicitation() {
    LoadIpHeader();
    code_.JumpIf(BPF_JNE, kProtocol, kIcmp6, other_);
    // From the link itself, not through a router (RFC 4861 section 7.1.1).
    code_.Load(BPF_B, R0, R10, kHopLimit6);
    code_.JumpIf(BPF_JNE, R0, 255, other_);
    LoadBytes(kSolicitation, 24);
    code_.Load(BPF_B, R0, R10, kSolicitation);
    code_.JumpIf(BPF_JNE, R0, kNeighbourSolicitation, other_);
    LookUpAddress(kTarget);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    code_.Jump(other_);
  }

  // At kAt: an ICMPv6 message. Echo requests to a VIP are owned; errors when what they quote is ours.
  void BuildIcmp() {
    Assembler::Label error = code_.NewLabel();
    Assembler::Label to_backend = code_.NewLabel();
    LoadBytes(kL4, 4);
    code_.Load(BPF_B, R0, R10, kL4);
    for (const int type : kErrorTypes6) code_.JumpIf(BPF_JEQ, R0, type, error);
    code_.JumpIf(BPF_JNE, R0, kEchoRequest6, other_);
    code_.JumpIf(BPF_JSET, kFlags, kVip, owned_);
    code_.Jump(other_);

    code_.Bind(error);
    code_.Calculate(BPF_ADD, kAt, kIcmpBytes);
    LoadIpHeader();
    // Quoted packets that we sent to a client or from a SNAT address have our address as source.
    LookUpAddress(kSource6);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    WalkHeaders();
    LoadPorts();
    Skip(BPF_JSET, kFlags, kVip, to_backend);
    MatchPorts(kPortsOfVip, kSource6, kL4);
    code_.Bind(to_backend);
    // Those that we sent on to a nat backend have the client's source, never the host's own.
    code_.JumpIf(BPF_JSET, kFlags, kHost, other_);
    MatchBackend(kDestination6, kL4 + 2);
    code_.Jump(other_);
  }

  // stack[to..to+bytes) = frame[kAt..); what is too short is left alone.
  void LoadBytes(int to, int bytes) {
    code_.Move(R1, kContext);
    code_.Move(R2, kAt);
    code_.Move(R3, R10);
    code_.Calculate(BPF_ADD, R3, to);
    code_.MoveValue(R4, bytes);
    code_.Call(load_bytes_);
    code_.JumpIf(BPF_JNE, R0, 0, other_);
  }

  // Loads the fixed header at kAt, moves kAt behind it, sets kProtocol to the next header.
  void LoadIpHeader() {
    LoadBytes(kHeader6, kIpv6Bytes);
    code_.Load(BPF_B, R0, R10, kHeader6);
    code_.Calculate(BPF_RSH, R0, 4);
    code_.JumpIf(BPF_JNE, R0, 6, other_);
    code_.Calculate(BPF_ADD, kAt, kIpv6Bytes);
    code_.Load(BPF_B, kProtocol, R10, kNextHeader6);
  }

  // Moves kAt to the transport header and sets kProtocol. Later fragments have none.
  void WalkHeaders() {
    constexpr int kVariable[] = {kHopByHop, kRouting, kDestinationOptions};
    Assembler::Label done = code_.NewLabel();
    for (int walked = 0; walked < kExtensionsMax; walked += 1) {
      Assembler::Label variable = code_.NewLabel();
      Assembler::Label next = code_.NewLabel();
      for (const int header : kVariable) code_.JumpIf(BPF_JEQ, kProtocol, header, variable);
      code_.JumpIf(BPF_JNE, kProtocol, kFragmentHeader, done);
      LoadBytes(kExtension, 8);
      code_.Load(BPF_H, R0, R10, kExtension + 2);
      code_.JumpIf(BPF_JSET, R0, Network16(0xfff8), other_);
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

  // Ports of TCP and UDP; other protocols are left alone, and so is a header that was not walked.
  void LoadPorts() {
    Assembler::Label known = code_.NewLabel();
    code_.JumpIf(BPF_JEQ, kProtocol, kTcp, known);
    code_.JumpIf(BPF_JNE, kProtocol, kUdp, other_);
    code_.Bind(known);
    LoadBytes(kL4, 4);
  }

  // kFlags = flags of the address at stack[address], 0 when it is not known.
  void LookUpAddress(int address) {
    Assembler::Label found = code_.NewLabel();
    Assembler::Label done = code_.NewLabel();
    code_.MoveValue(kFlags, 0);
    LookUp(maps_.addresses6, address);
    code_.JumpIf(BPF_JNE, R0, 0, found);
    code_.StoreValue(BPF_W, R10, kPrefixKey, 128);
    CopyAddress(kPrefixKey + static_cast<int>(offsetof(PrefixKey, address)), address);
    LookUp(maps_.prefixes, kPrefixKey);
    code_.JumpIf(BPF_JEQ, R0, 0, done);
    code_.Bind(found);
    code_.Load(BPF_W, kFlags, R0, 0);
    code_.Bind(done);
  }

  // Owned when stack[address] is a nat backend's, and stack[port] one of its ports.
  void MatchBackend(int address, int port) {
    Assembler::Label other = code_.NewLabel();
    LookUpAddress(address);
    Skip(BPF_JSET, kFlags, kBackend, other);
    MatchPorts(kPortsOfBackend, address, port);
    code_.Bind(other);
  }

  // Owned when the port map has stack[port] for this kind, kProtocol and stack[address].
  void MatchPorts(int kind, int address, int port) {
    code_.StoreValue(BPF_W, R10, Key6At(offsetof(PortKey6, bits)), kFixedBits6 + 16);
    CopyAddress(Key6At(offsetof(PortKey6, address)), address);
    code_.Store(BPF_B, R10, Key6At(offsetof(PortKey6, protocol)), kProtocol);
    code_.StoreValue(BPF_B, R10, Key6At(offsetof(PortKey6, kind)), kind);
    code_.Load(BPF_H, R0, R10, port);
    code_.Store(BPF_H, R10, Key6At(offsetof(PortKey6, port)), R0);
    LookUp(maps_.ports6, kKey6);
    code_.JumpIf(BPF_JNE, R0, 0, owned_);
  }

  static constexpr int Key6At(size_t field) { return kKey6 + static_cast<int>(field); }

  void CopyAddress(int to, int from) {
    for (int at = 0; at < 16; at += 4) {
      code_.Load(BPF_W, R0, R10, from + at);
      code_.Store(BPF_W, R10, to + at, R0);
    }
  }

  // Goes on when `reg op value` holds, and else to the label.
  void Skip(int op, int reg, int32_t value, Assembler::Label to) {
    Assembler::Label holds = code_.NewLabel();
    code_.JumpIf(op, reg, value, holds);
    code_.Jump(to);
    code_.Bind(holds);
  }

  // r0 = pointer to the value for the key at stack[key], or 0.
  void LookUp(int map, int key) {
    code_.LoadMap(R1, map);
    code_.Move(R2, R10);
    code_.Calculate(BPF_ADD, R2, key);
    code_.Call(kLookup);
  }

  Assembler& code_;
  const OwnershipMaps& maps_;
  const Assembler::Label other_;
  const Assembler::Label owned_;
  const int load_bytes_;
};

}  // namespace headgate::bpf

#endif  // HEADGATE_ADDON_OWNERSHIP6_H_

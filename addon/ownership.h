// The program that says which packets are the gateway's (design 1.9), for two hooks:
//
//   TCX ingress  the kernel's copy of an owned packet is dropped; AF_PACKET has seen it before
//   XDP          an owned packet goes to the AF_XDP socket of its queue; all else to the kernel
//
// Both read the same maps:
//
//   front      array by the low half of an address: its high half, its flags, and whether there are
//              more with that low half. The kernel makes a look-up in an array part of the program,
//              where one in a hash is a call: 20 ns less for each frame, also one that is not ours
//   addresses  hash: address -> flags (kVip, kWhole, kHost, kBackend), where there are more
//   prefixes   longest prefix: the flags of VIPs that are prefixes, for addresses that are in no
//              other map; the front says "more" of every low half that an IPv4 prefix has
//   ports      longest prefix of {address, protocol, kind, port}: one entry is a block of ports
//
// IPv6 has maps of its own, and a part of the program (ownership6.h).
//
// XDP looks the destination up straight in the packet first: a client's packet to a VIP costs one
// look-up of a hash. Ports, options and ICMP come after, through the stack, and are the same
// instructions for both hooks.
#ifndef HEADGATE_ADDON_OWNERSHIP_H_
#define HEADGATE_ADDON_OWNERSHIP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ownership6.h"

namespace headgate::bpf {

constexpr int kFrame = R7;  // XDP, before kAt: the packet's first byte

// The stack frame, below what packet_program.h has there.
constexpr int kKey = -48;  // struct PortKey
constexpr int kFrontIndex = -52;
constexpr int kHostOrder = -56;  // the address that is looked up

// Where a field of the key lies on the stack.
constexpr int KeyAt(size_t field) { return kKey + static_cast<int>(field); }

constexpr int kArpBytes = 28;

// Numbers of include/uapi/linux/bpf.h, if_packet.h and icmp.h.
constexpr int kRedirectMap = 51;  // BPF_FUNC_redirect_map
constexpr int kTcxNext = -1, kTcxDrop = 2;
constexpr int kPacketBroadcast = 1, kPacketMulticast = 2;
constexpr int kEchoRequest = 8;

class OwnershipProgram : private OwnershipProgram6 {
 public:
  explicit OwnershipProgram(const OwnershipMaps& maps) : OwnershipProgram6(maps) {}

  // For TCX: drops what is owned.
  std::vector<bpf_insn> BuildTcx() {
    load_bytes_ = kSkbLoadBytes;
    MakeLabels();
    StartTcx();
    BuildSlow();
    code_.Bind(ipv6_);
    BuildIpv6(false);
    code_.Bind(other_);
    code_.MoveValue(R0, kTcxNext);
    code_.Exit();
    code_.Bind(owned_);
    code_.MoveValue(R0, kTcxDrop);
    code_.Exit();
    return code_.Finish();
  }

  // For XDP: sends what is owned to the socket at first + queue of the socket map, and where there
  // is none returns `fallback` (XDP_PASS or XDP_DROP).
  std::vector<bpf_insn> BuildXdp(int sockets, uint32_t first, int fallback) {
    load_bytes_ = kXdpLoadBytes;
    MakeLabels();
    StartXdp();
    BuildSlow();
    code_.Bind(ipv6_);
    BuildIpv6(true);
    code_.Bind(owned_);
    code_.Load(BPF_W, R2, kContext, offsetof(xdp_md, rx_queue_index));
    code_.JumpIf(BPF_JGE, R2, static_cast<int32_t>(kQueuesMax), other_);
    code_.Calculate(BPF_ADD, R2, static_cast<int32_t>(first));
    code_.LoadMap(R1, sockets);
    code_.MoveValue(R3, fallback);
    code_.Call(kRedirectMap);
    code_.Exit();
    code_.Bind(other_);
    code_.MoveValue(R0, XDP_PASS);
    code_.Exit();
    return code_.Finish();
  }

 private:
  void MakeLabels() {
    other_ = code_.NewLabel();
    owned_ = code_.NewLabel();
    ports_known_ = code_.NewLabel();
    icmp_ = code_.NewLabel();
    ipv6_ = code_.NewLabel();
  }

  void StartTcx() {
    code_.Move(kContext, R1);
    // Frames to a group are never the gateway's: it leaves them to the kernel too.
    code_.Load(BPF_W, R0, kContext, offsetof(__sk_buff, pkt_type));
    code_.JumpIf(BPF_JEQ, R0, kPacketBroadcast, other_);
    code_.JumpIf(BPF_JEQ, R0, kPacketMulticast, other_);
    // A tagged frame belongs to a VLAN interface; the kernel has taken the tag off already.
    code_.Load(BPF_W, R0, kContext, offsetof(__sk_buff, vlan_present));
    code_.JumpIf(BPF_JNE, R0, 0, other_);
    code_.Load(BPF_W, R0, kContext, offsetof(__sk_buff, protocol));
    code_.JumpIf(BPF_JEQ, R0, Network16(0x86dd), ipv6_);
    code_.JumpIf(BPF_JNE, R0, Network16(0x0800), other_);
  }

  // Destination first, read where it lies; then ports or ICMP, as long as there are no options.
  void StartXdp() {
    Assembler::Label arp = code_.NewLabel();
    Assembler::Label ip = code_.NewLabel();
    Assembler::Label slow = code_.NewLabel();
    code_.Move(kContext, R1);
    code_.Load(BPF_W, kFrame, kContext, offsetof(xdp_md, data));
    code_.Load(BPF_W, R3, kContext, offsetof(xdp_md, data_end));
    RequireFrame(kEthernetBytes + kIpv4Bytes);
    code_.Load(BPF_H, R0, kFrame, 12);
    code_.JumpIf(BPF_JEQ, R0, Network16(0x0800), ip);
    code_.JumpIf(BPF_JEQ, R0, Network16(0x86dd), ipv6_);
    code_.JumpIf(BPF_JEQ, R0, Network16(0x0806), arp);
    code_.Jump(other_);
    code_.Bind(arp);
    BuildArp();

    code_.Bind(ip);
    // Frames to a group are never the gateway's.
    code_.Load(BPF_B, R0, kFrame, 0);
    code_.JumpIf(BPF_JSET, R0, 1, other_);
    LookUpInFrame(kEthernetBytes + 16);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    code_.Load(BPF_B, R0, kFrame, kEthernetBytes);
    code_.JumpIf(BPF_JNE, R0, 0x45, slow);
    code_.Load(BPF_H, R0, kFrame, kEthernetBytes + 6);
    code_.JumpIf(BPF_JSET, R0, Network16(kFragmentOffset), slow);
    code_.Load(BPF_W, R3, kContext, offsetof(xdp_md, data_end));
    RequireFrame(kEthernetBytes + kIpv4Bytes + 4);
    code_.Load(BPF_W, R0, kFrame, kEthernetBytes + 12);
    code_.Store(BPF_W, R10, kSource, R0);
    code_.Load(BPF_W, R0, kFrame, kEthernetBytes + 16);
    code_.Store(BPF_W, R10, kDestination, R0);
    code_.Load(BPF_W, R0, kFrame, kEthernetBytes + kIpv4Bytes);
    code_.Store(BPF_W, R10, kL4, R0);
    code_.Load(BPF_B, kProtocol, kFrame, kEthernetBytes + 9);
    code_.MoveValue(kAt, kEthernetBytes + kIpv4Bytes);
    code_.JumpIf(BPF_JEQ, kProtocol, kTcp, ports_known_);
    code_.JumpIf(BPF_JEQ, kProtocol, kUdp, ports_known_);
    code_.JumpIf(BPF_JEQ, kProtocol, kIcmp, icmp_);
    code_.Jump(other_);
    code_.Bind(slow);
  }

  // A request for an address that is all ours (the kernel does not answer for it). Replies, which
  // the kernel's neighbour table lives on, and announcements are the kernel's.
  void BuildArp() {
    RequireFrame(kEthernetBytes + kArpBytes);
    code_.Load(BPF_W, R0, kFrame, kEthernetBytes + 4);  // lengths of 6 and 4, and the operation
    code_.JumpIf(BPF_JNE, R0, Network16(0x0604) | Network16(1) << 16, other_);
    code_.Load(BPF_W, R0, kFrame, kEthernetBytes + 14);  // sender
    code_.Load(BPF_W, R1, kFrame, kEthernetBytes + 24);  // target
    code_.JumpIfReg(BPF_JEQ, R0, R1, other_);
    LookUpInFrame(kEthernetBytes + 24);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    code_.Jump(other_);
  }

  // What is shorter is left alone. r3 is the packet's end.
  void RequireFrame(int bytes) {
    code_.Move(R2, kFrame);
    code_.Calculate(BPF_ADD, R2, bytes);
    code_.JumpIfReg(BPF_JGT, R2, R3, other_);
  }

  // kFlags = flags of the address at this offset of the frame, 0 when it is not known.
  void LookUpInFrame(int offset) { LookUpAt(kFrame, offset); }

  // kFlags = flags of the address at base + offset, 0 when it is not known.
  void LookUpAt(int base, int offset) {
    Assembler::Label used = code_.NewLabel();
    Assembler::Label differs = code_.NewLabel();
    Assembler::Label more = code_.NewLabel();
    Assembler::Label found = code_.NewLabel();
    Assembler::Label done = code_.NewLabel();
    code_.Load(BPF_W, R1, base, offset);
    code_.FromNetwork(R1, 32);
    code_.Store(BPF_W, R10, kHostOrder, R1);
    code_.Calculate(BPF_AND, R1, kFrontEntries - 1);
    code_.Store(BPF_W, R10, kFrontIndex, R1);
    LookUp(maps_.front, R10, kFrontIndex);
    code_.JumpIf(BPF_JEQ, R0, 0, other_);
    code_.Load(BPF_W, kFlags, R0, 0);
    code_.Load(BPF_W, R1, R10, kHostOrder);
    code_.Calculate(BPF_RSH, R1, 16);
    code_.Move(R2, kFlags);
    code_.Calculate(BPF_RSH, R2, 16);
    code_.JumpIfReg(BPF_JNE, R1, R2, differs);
    code_.JumpIf(BPF_JSET, kFlags, kFrontUsed, used);
    code_.Bind(differs);
    code_.JumpIf(BPF_JSET, kFlags, kFrontMore, more);
    code_.MoveValue(kFlags, 0);
    code_.Jump(done);
    code_.Bind(more);
    code_.MoveValue(kFlags, 0);
    LookUp(maps_.addresses, base, offset);
    code_.JumpIf(BPF_JNE, R0, 0, found);
    LookUpPrefix4(maps_.prefixes, base, offset);
    code_.JumpIf(BPF_JEQ, R0, 0, done);
    code_.Bind(found);
    code_.Load(BPF_W, kFlags, R0, 0);
    code_.Jump(done);
    code_.Bind(used);
    code_.Calculate(BPF_RSH, kFlags, 8);
    code_.Calculate(BPF_AND, kFlags, 0xff);
    code_.Bind(done);
  }

  // Everything from the IP header on, by copies on the stack.
  void BuildSlow() {
    code_.MoveValue(kAt, kEthernetBytes);
    LoadIpHeader();
    LookUpAddress(kDestination);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    MatchLaterFragment();
    code_.JumpIf(BPF_JEQ, kProtocol, kIcmp, icmp_);
    LoadPorts();
    code_.Bind(ports_known_);
    Assembler::Label fromBackend = code_.NewLabel();
    SkipUnless(kVip, fromBackend);
    MatchPorts(kPortsOfVip, kDestination, kL4 + 2);
    code_.Bind(fromBackend);
    code_.JumpIf(BPF_JSET, kFlags, kHost, other_);
    MatchBackend(kSource, kL4);
    code_.Jump(other_);
    code_.Bind(icmp_);
    BuildIcmp();
  }

  // A later fragment has no ports: from a nat backend it is owned all the same, since it may follow a
  // reply; to a VIP that is also the host's address it is left alone, since it may be the host's.
  void MatchLaterFragment() {
    Assembler::Label whole = code_.NewLabel();
    Assembler::Label known = code_.NewLabel();
    code_.Load(BPF_H, R0, R10, kFragment);
    code_.Calculate(BPF_AND, R0, Network16(kFragmentOffset));
    code_.JumpIf(BPF_JEQ, R0, 0, whole);
    code_.JumpIf(BPF_JSET, kFlags, kHost, other_);
    code_.JumpIf(BPF_JEQ, kProtocol, kTcp, known);
    code_.JumpIf(BPF_JNE, kProtocol, kUdp, other_);
    code_.Bind(known);
    LookUpAddress(kSource);
    code_.JumpIf(BPF_JSET, kFlags, kBackend, owned_);
    code_.Jump(other_);
    code_.Bind(whole);
  }

  // At kAt: an ICMP message. Echo requests to a VIP are owned; errors when what they quote is ours.
  void BuildIcmp() {
    Assembler::Label error = code_.NewLabel();
    LoadBytes(kL4, 4);
    code_.Load(BPF_B, R0, R10, kL4);
    for (const int type : kErrorTypes) code_.JumpIf(BPF_JEQ, R0, type, error);
    code_.JumpIf(BPF_JNE, R0, kEchoRequest, other_);
    code_.JumpIf(BPF_JSET, kFlags, kVip, owned_);
    code_.Jump(other_);

    code_.Bind(error);
    code_.Calculate(BPF_ADD, kAt, kIcmpBytes);
    LoadIpHeader();
    // Quoted packets that we sent to a client or from a SNAT address have our address as source.
    LookUpAddress(kSource);
    code_.JumpIf(BPF_JSET, kFlags, kWhole, owned_);
    RefuseLaterFragment();
    LoadPorts();
    Assembler::Label toBackend = code_.NewLabel();
    SkipUnless(kVip, toBackend);
    MatchPorts(kPortsOfVip, kSource, kL4);
    code_.Bind(toBackend);
    // Those that we sent on to a nat backend have the client's source, never the host's own.
    code_.JumpIf(BPF_JSET, kFlags, kHost, other_);
    MatchBackend(kDestination, kL4 + 2);
    code_.Jump(other_);
  }

  // kFlags = flags of the address at stack[address], 0 when it is not known.
  void LookUpAddress(int address) { LookUpAt(R10, address); }

  // Owned when stack[address] is a nat backend's, and stack[port] one of its ports.
  void MatchBackend(int address, int port) {
    Assembler::Label other = code_.NewLabel();
    LookUpAddress(address);
    SkipUnless(kBackend, other);
    MatchPorts(kPortsOfBackend, address, port);
    code_.Bind(other);
  }

  // Owned when the port map has stack[port] for this kind, kProtocol and stack[address].
  void MatchPorts(int kind, int address, int port) {
    code_.StoreValue(BPF_W, R10, KeyAt(offsetof(PortKey, bits)), kFixedBits + 16);
    code_.Load(BPF_W, R0, R10, address);
    code_.Store(BPF_W, R10, KeyAt(offsetof(PortKey, address)), R0);
    code_.Store(BPF_B, R10, KeyAt(offsetof(PortKey, protocol)), kProtocol);
    code_.StoreValue(BPF_B, R10, KeyAt(offsetof(PortKey, kind)), kind);
    code_.Load(BPF_H, R0, R10, port);
    code_.Store(BPF_H, R10, KeyAt(offsetof(PortKey, port)), R0);
    LookUp(maps_.ports, R10, kKey);
    code_.JumpIf(BPF_JNE, R0, 0, owned_);
  }

  // Behind the loading of ports. ICMP. IPv6.
  Assembler::Label ports_known_ = 0;
  Assembler::Label icmp_ = 0;
  Assembler::Label ipv6_ = 0;
};

}  // namespace headgate::bpf

#endif  // HEADGATE_ADDON_OWNERSHIP_H_

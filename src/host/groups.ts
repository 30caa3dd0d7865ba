import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { type Address, addressOf6 } from "../base/address.ts";
import { type Log, reasonOf } from "../base/log.ts";

/**
 * Solicited-node groups (RFC 4291 section 2.7.1): a neighbour solicitation for an address goes to a
 * group that is made of its last 24 bits, and an interface hears only the groups that somebody on
 * the host has joined. For its own addresses the kernel does that; VIPs and SNAT addresses that the
 * host has not are joined here, on sockets that receive nothing else: the kernel sets the
 * interface's filter, and tells switches that look into MLD reports (RFC 4861 section 7.2.1). What
 * was joined goes with the process.
 *
 * The addresses of a VIP that is a prefix are too many to be joined: a prefix is routed to the
 * gateway, not asked for.
 */
export interface SolicitedGroups {
  /** Be in the groups of these addresses from now on, and in no others. IPv4 ones are left out. */
  update(addresses: readonly Address[]): Promise<void>;
  /** Leave all. Closing twice is fine. */
  close(): void;
}

/** Memberships of one socket: their memory is bounded by net.core.optmem_max, 20 KiB at least. */
const MEMBERSHIPS_MAX = 128;

/** The group of an address. */
export function solicitedNode({ words }: Address): string {
  return addressOf6([0xff020000 | 0, 0, 1, 0xff000000 | (words[3] & 0xffffff) | 0]).text;
}

interface Member {
  readonly socket: Socket;
  count: number;
}

/** @param interfaces - names */
export function createSolicitedGroups(interfaces: readonly string[], log?: Log): SolicitedGroups {
  const sockets: Member[] = [];
  /** `GROUP INTERFACE` -> the socket that is in it. */
  const joined = new Map<string, Member>();
  const refused = new Set<string>();
  let closed = false;

  async function memberWithRoom(): Promise<Member> {
    const found = sockets.find(({ count }) => count < MEMBERSHIPS_MAX);
    if (found !== undefined) return found;
    const socket = createSocket("udp6");
    // On the loopback: no datagram of the network is for it.
    socket.bind({ address: "::1", port: 0, exclusive: true });
    await once(socket, "listening");
    socket.unref();
    socket.on("error", () => {});
    const member = { socket, count: 0 };
    sockets.push(member);
    return member;
  }

  async function join(group: string, name: string): Promise<void> {
    const key = `${group} ${name}`;
    try {
      const member = await memberWithRoom();
      member.socket.addMembership(group, `::%${name}`);
      member.count++;
      joined.set(key, member);
    } catch (error) {
      // Once an interface: without IPv6 on it, every group is refused.
      if (refused.has(name)) return;
      refused.add(name);
      log?.warn("group_not_joined", {
        interface: name,
        group,
        reason:
          `${reasonOf(error)}: its solicitations may not come in; ` +
          `\`sysctl net.ipv6.conf.${name}.disable_ipv6\` has to be 0`,
      });
    }
  }

  function leave(key: string, member: Member): void {
    const [group = "", name = ""] = key.split(" ");
    joined.delete(key);
    member.count--;
    try {
      member.socket.dropMembership(group, `::%${name}`);
    } catch {
      // The interface went, and its groups with it.
    }
  }

  return {
    async update(addresses) {
      if (closed) return;
      const wanted = new Set<string>();
      for (const address of addresses) {
        if (address.family !== 6) continue;
        for (const name of interfaces) wanted.add(`${solicitedNode(address)} ${name}`);
      }
      for (const key of wanted) {
        const [group = "", name = ""] = key.split(" ");
        if (!joined.has(key)) await join(group, name);
      }
      for (const [key, member] of [...joined]) if (!wanted.has(key)) leave(key, member);
    },
    close() {
      closed = true;
      joined.clear();
      for (const { socket } of sockets.splice(0)) socket.close();
    },
  };
}

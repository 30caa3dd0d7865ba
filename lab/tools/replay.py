#!/usr/bin/python3
"""Sends the frames of a capture file out of an interface, as they are, a few at a time.

    replay.py FILE INTERFACE

The lab's own sender of frames that no stack would build: it reads the file itself and uses nothing
but an AF_PACKET socket, so that it shares no code with what it tests.
"""
import socket
import struct
import sys
import time

FRAMES_PER_PAUSE = 32
PAUSE_SECONDS = 0.002


def frames(path):
    with open(path, "rb") as file:
        header = file.read(24)
        (magic,) = struct.unpack("<I", header[:4])
        if magic not in (0xA1B2C3D4, 0xA1B23C4D):
            raise SystemExit(f"{path}: not a little-endian capture file")
        while record := file.read(16):
            _, _, captured, _ = struct.unpack("<IIII", record)
            yield file.read(captured)


def main():
    path, interface = sys.argv[1:3]
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((interface, 0))
    count = 0
    for frame in frames(path):
        sender.send(frame)
        count += 1
        if count % FRAMES_PER_PAUSE == 0:
            time.sleep(PAUSE_SECONDS)
    print(count)


main()

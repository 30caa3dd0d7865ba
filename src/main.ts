#!/usr/bin/env -S node --enable-source-maps
console.error("headgate: no command yet");
process.exitCode = 2;

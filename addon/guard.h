// The kernel is kept away from what the gateway owns by a small BPF program; see guard.cc.
#ifndef HEADGATE_ADDON_GUARD_H_
#define HEADGATE_ADDON_GUARD_H_

#include <napi.h>

// Puts createGuard() and guardPinned() on the module's exports; src/device/guard-native.ts has
// their types.
void InitGuard(Napi::Env env, Napi::Object exports);

#endif  // HEADGATE_ADDON_GUARD_H_

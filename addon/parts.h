// What each file of the addon puts on the module's exports.
#ifndef HEADGATE_ADDON_PARTS_H_
#define HEADGATE_ADDON_PARTS_H_

#include <napi.h>

namespace headgate {

void InitWake(Napi::Env env, Napi::Object exports);
void InitRegion(Napi::Env env, Napi::Object exports);
void InitTun(Napi::Env env, Napi::Object exports);
void InitPacket(Napi::Env env, Napi::Object exports);
void InitXdp(Napi::Env env, Napi::Object exports);
void InitSteering(Napi::Env env, Napi::Object exports);
void InitTunnel(Napi::Env env, Napi::Object exports);
void InitPrivileges(Napi::Env env, Napi::Object exports);
void InitEcho(Napi::Env env, Napi::Object exports);

}  // namespace headgate

#endif  // HEADGATE_ADDON_PARTS_H_

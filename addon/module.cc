// Entry point of the addon `frameio`: frames in, frames out. It knows no VIP.
//
// It loads in the main thread and in any number of workers. It keeps no global state: what a
// thread opens belongs to that thread's environment and goes with it (util.h, Holder).
#include <napi.h>

#include "frame_io.h"
#include "guard.h"
#include "parts.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  // src/device/native.ts compares these with its own and refuses an addon of another build.
  Napi::Object layout = Napi::Object::New(env);
  layout.Set("descriptorWords", Napi::Number::New(env, sizeof(headgate::Descriptor) / 4));
  layout.Set("batchFramesMax", Napi::Number::New(env, headgate::kBatchFramesMax));
  layout.Set("outFramesMax", Napi::Number::New(env, headgate::kOutFramesMax));
  layout.Set("interfacesMax", Napi::Number::New(env, headgate::kInterfacesMax));
  exports.Set("layout", layout);
  headgate::InitWake(env, exports);
  headgate::InitRegion(env, exports);
  headgate::InitTun(env, exports);
  headgate::InitPacket(env, exports);
  headgate::InitXdp(env, exports);
  headgate::InitSteering(env, exports);
  headgate::InitTunnel(env, exports);
  headgate::InitPrivileges(env, exports);
  headgate::InitEcho(env, exports);
  InitGuard(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(frameio, Init)

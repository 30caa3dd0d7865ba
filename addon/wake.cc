// A wake-up that any thread can give to one that waits on a device: an eventfd.
#include <errno.h>
#include <sys/eventfd.h>

#include "parts.h"
#include "util.h"

namespace headgate {

namespace {

class WakeOwner : public SharedOwner {
 public:
  explicit WakeOwner(int fd) : fd(fd) {}
  void Release() override { fd.Close(); }
  Fd fd;
};

WakeOwner* OwnerOf(napi_env env, napi_callback_info info, Holder** holder) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  *holder = static_cast<Holder*>(data);
  return static_cast<WakeOwner*>((*holder)->owner());
}

// Returns false when the wake is closed.
napi_value CallWake(napi_env env, napi_callback_info info) {
  Holder* holder = nullptr;
  WakeOwner* owner = OwnerOf(env, info, &holder);
  bool done = false;
  if (owner != nullptr) {
    const uint64_t one = 1;
    // EAGAIN: the counter is at its largest, so the sleeper is awake anyway.
    done = write(owner->fd.get(), &one, sizeof one) == sizeof one || errno == EAGAIN;
  }
  napi_value result = nullptr;
  napi_get_boolean(env, done, &result);
  return result;
}

napi_value CallClose(napi_env env, napi_callback_info info) {
  Holder* holder = nullptr;
  OwnerOf(env, info, &holder);
  holder->Close();
  return nullptr;
}

Napi::Value CreateWake(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) {
    Throw(env, {errno, "eventfd", "wake"});
    return env.Undefined();
  }
  Holder* holder = Holder::Make(env, new WakeOwner(fd));
  napi_value result = nullptr;
  napi_create_object(env, &result);
  SetNumber(env, result, "fd", fd);
  AddFunction(env, result, "wake", CallWake, holder);
  AddFunction(env, result, "close", CallClose, holder);
  holder->DropReference();
  return Napi::Value(env, result);
}

}  // namespace

void InitWake(Napi::Env env, Napi::Object exports) {
  exports.Set("createWake", Napi::Function::New(env, CreateWake, "createWake"));
}

}  // namespace headgate

// What threads need of each other and of the machine: a wake-up that any thread can give to one that
// waits on a device (an eventfd), a name, a processor.
#include <errno.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

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

// placeThread(name, cpu): names the calling thread, and keeps it on a processor when cpu is not -1.
Napi::Value PlaceThread(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string name = info[0].As<Napi::String>().Utf8Value();
  const int cpu = info[1].As<Napi::Number>().Int32Value();
  if (prctl(PR_SET_NAME, name.c_str()) != 0) {
    Throw(env, {errno, "prctl", name});
    return env.Undefined();
  }
  if (cpu < 0) return env.Undefined();
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu >= CPU_SETSIZE) {
    Throw(env, {EINVAL, "sched_setaffinity", std::to_string(cpu)});
    return env.Undefined();
  }
  CPU_SET(static_cast<size_t>(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    Throw(env, {errno, "sched_setaffinity", std::to_string(cpu)});
  }
  return env.Undefined();
}

}  // namespace

void InitWake(Napi::Env env, Napi::Object exports) {
  exports.Set("createWake", Napi::Function::New(env, CreateWake, "createWake"));
  exports.Set("placeThread", Napi::Function::New(env, PlaceThread, "placeThread"));
}

}  // namespace headgate

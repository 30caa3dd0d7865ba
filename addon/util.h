// What the addon's owners share with JavaScript, and how a failed system call becomes its error.
#ifndef HEADGATE_ADDON_UTIL_H_
#define HEADGATE_ADDON_UTIL_H_

#include <napi.h>

#include <cstdint>
#include <string>
#include <utility>

#include "own.h"

namespace headgate {

// Throws an Error with `errno`, `syscall` and `subject`; src/device/native.ts makes the sentence.
inline void Throw(Napi::Env env, const Failure& failure) {
  Napi::Error error =
      Napi::Error::New(env, std::string(failure.call) + " failed for " + failure.subject);
  error.Set("errno", Napi::Number::New(env, failure.code));
  error.Set("syscall", Napi::String::New(env, failure.call));
  error.Set("subject", Napi::String::New(env, failure.subject));
  error.ThrowAsJavaScriptException();
}

// Mapped memory that JavaScript sees as an ArrayBuffer: who calls `close` detaches the buffer and
// unmaps; who forgets has it done by the collector; a thread that ends has it done by the hook.
class SharedOwner {
 public:
  virtual ~SharedOwner() = default;
  // Release descriptors and mappings. Called at most once; nothing may be used afterwards.
  virtual void Release() = 0;
};

// Ties a SharedOwner to one environment (thread). Every JavaScript function and buffer that needs
// the owner holds one reference; the last one deletes it.
class Holder {
 public:
  static Holder* Make(napi_env env, SharedOwner* owner) { return new Holder(env, owner); }

  // nullptr once closed.
  SharedOwner* owner() const { return owner_; }

  // `value` (an object or function) keeps the holder until it is collected.
  void KeptBy(napi_value value) {
    references_ += 1;
    napi_add_finalizer(env_, value, this, OnFinalize, nullptr, nullptr);
  }

  // The buffer over `memory`; `Close` detaches it.
  napi_value MakeBuffer(void* memory, size_t bytes) {
    napi_value buffer = nullptr;
    references_ += 1;
    if (napi_create_external_arraybuffer(env_, memory, bytes, OnBufferFreed, this, &buffer) !=
        napi_ok) {
      references_ -= 1;
      return nullptr;
    }
    napi_create_reference(env_, buffer, 0, &buffer_);
    return buffer;
  }

  void Close() {
    if (owner_ == nullptr) return;
    if (buffer_ != nullptr) {
      napi_handle_scope scope = nullptr;
      napi_open_handle_scope(env_, &scope);
      napi_value buffer = nullptr;
      napi_get_reference_value(env_, buffer_, &buffer);
      // Nobody can reach the memory through a view any more once the buffer is detached.
      if (buffer != nullptr) napi_detach_arraybuffer(env_, buffer);
      napi_delete_reference(env_, buffer_);
      buffer_ = nullptr;
      napi_close_handle_scope(env_, scope);
    }
    napi_remove_env_cleanup_hook(env_, OnEnvironmentEnds, this);
    ReleaseOwner();
  }

  // Drops the reference of whoever made the holder.
  void DropReference() {
    references_ -= 1;
    if (references_ == 0) delete this;
  }

 private:
  Holder(napi_env env, SharedOwner* owner) : env_(env), owner_(owner) {
    napi_add_env_cleanup_hook(env, OnEnvironmentEnds, this);
  }
  ~Holder() {
    if (owner_ != nullptr) {
      napi_remove_env_cleanup_hook(env_, OnEnvironmentEnds, this);
      ReleaseOwner();
    }
    if (buffer_ != nullptr) napi_delete_reference(env_, buffer_);
  }

  void ReleaseOwner() {
    SharedOwner* owner = std::exchange(owner_, nullptr);
    owner->Release();
    delete owner;
  }

  static void OnFinalize(napi_env, void* data, void*) {
    static_cast<Holder*>(data)->DropReference();
  }
  static void OnBufferFreed(napi_env, void*, void* hint) {
    static_cast<Holder*>(hint)->DropReference();
  }
  // Runs when a worker thread ends or the process exits: no JavaScript runs after it.
  static void OnEnvironmentEnds(void* data) {
    Holder* holder = static_cast<Holder*>(data);
    if (holder->owner_ != nullptr) holder->ReleaseOwner();
  }

  napi_env env_;
  SharedOwner* owner_;
  napi_ref buffer_ = nullptr;
  int references_ = 1;
};

// A function whose data is `holder`, as property `name` of `object`.
inline void AddFunction(napi_env env, napi_value object, const char* name, napi_callback callback,
                        Holder* holder) {
  napi_value function = nullptr;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, holder, &function);
  holder->KeptBy(function);
  napi_set_named_property(env, object, name, function);
}

inline napi_value MakeNumber(napi_env env, double value) {
  napi_value result = nullptr;
  napi_create_double(env, value, &result);
  return result;
}

inline void SetNumber(napi_env env, napi_value object, const char* name, double value) {
  napi_set_named_property(env, object, name, MakeNumber(env, value));
}

}  // namespace headgate

#endif  // HEADGATE_ADDON_UTIL_H_

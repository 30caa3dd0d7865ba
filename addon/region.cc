// The state file: lock, allocation, mapping. Opening, renaming and statfs are done by Node itself
// (src/device/region.ts); these three are what it has no call for.
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "parts.h"
#include "util.h"

namespace headgate {

namespace {

class RegionOwner : public SharedOwner {
 public:
  explicit RegionOwner(Mapping mapping) : mapping(std::move(mapping)) {}
  void Release() override { mapping.Unmap(); }
  Mapping mapping;
};

int FdArgument(const Napi::CallbackInfo& info) {
  return info.Length() > 0 && info[0].IsNumber() ? info[0].As<Napi::Number>().Int32Value() : -1;
}

// lockFile(fd): true when the lock is ours, false when another open file has it.
Napi::Value LockFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (flock(FdArgument(info), LOCK_EX | LOCK_NB) == 0) return Napi::Boolean::New(env, true);
  if (errno == EWOULDBLOCK) return Napi::Boolean::New(env, false);
  Throw(env, {errno, "flock", "state file"});
  return env.Undefined();
}

// allocateFile(fd, bytes): exactly that size, every page there. The size stays when there is no
// room.
Napi::Value AllocateFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = FdArgument(info);
  const off_t bytes = info.Length() > 1 && info[1].IsNumber()
                          ? static_cast<off_t>(info[1].As<Napi::Number>().Int64Value())
                          : -1;
  struct stat before {};
  if (fstat(fd, &before) != 0) {
    Throw(env, {errno, "fstat", "state file"});
    return env.Undefined();
  }
  if (bytes <= 0) {
    Throw(env, {EINVAL, "fallocate", "state file"});
    return env.Undefined();
  }
  // Only ever one signal away from done: a large tmpfs file takes a while, and EINTR undoes it.
  int code = 0;
  do {
    code = fallocate(fd, 0, 0, bytes) == 0 ? 0 : errno;
  } while (code == EINTR);
  if (code != 0) {
    // A file system that kept part of it gives that part back.
    if (ftruncate(fd, before.st_size) != 0 && code != ENOSPC) code = errno;
    Throw(env, {code, "fallocate", "state file"});
    return env.Undefined();
  }
  if (before.st_size > bytes && ftruncate(fd, bytes) != 0) {
    Throw(env, {errno, "ftruncate", "state file"});
  }
  return env.Undefined();
}

napi_value CallClose(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  static_cast<Holder*>(data)->Close();
  return nullptr;
}

constexpr size_t kHugePageBytes = 2 << 20;
// Since Linux 6.1, newer than the headers of some distributions (include/uapi/asm-generic/mman-common.h).
constexpr int kMadviseCollapse = 25;

// Has the whole huge pages within a part made of one piece each, so that a walk over a large flow
// table misses fewer translations. Unlike transparent huge pages by themselves this needs no setting
// of the host (shmem_enabled); where it cannot be, the small pages stay.
void Collapse(uint8_t* at, size_t bytes) {
  const auto from = reinterpret_cast<uintptr_t>(at);
  const uintptr_t first = (from + kHugePageBytes - 1) & ~(kHugePageBytes - 1);
  const uintptr_t last = (from + bytes) & ~(kHugePageBytes - 1);
  if (last > first) madvise(at + (first - from), last - first, kMadviseCollapse);
}

// Maps the pages of a part of a mapping for writing: no store faults there later.
Failure Touch(uint8_t* at, size_t bytes, size_t part_at, size_t part_bytes) {
  if (part_at >= bytes) return {};
  part_bytes = std::min(part_bytes, bytes - part_at);
  // Since Linux 5.14; a kernel without it maps them as they are looked at.
  if (madvise(at + part_at, part_bytes, MADV_POPULATE_WRITE) != 0 && errno != EINVAL) {
    return {errno, "madvise", "state file"};
  }
  Collapse(at + part_at, part_bytes);
  return {};
}

// A mapping whose huge pages are those of the file: at an address that is a multiple of one.
void* MapShared(int fd, size_t bytes) {
  const size_t room = bytes + kHugePageBytes;
  void* reserved = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  auto* begin = static_cast<uint8_t*>(reserved);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) & (kHugePageBytes - 1);
  void* at = mmap(begin + before, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (at == MAP_FAILED) {
    const int code = errno;
    munmap(reserved, room);
    errno = code;
    return MAP_FAILED;
  }
  const size_t pages_end = (before + bytes + 4095) & ~size_t{4095};
  if (before > 0) munmap(begin, before);
  if (pages_end < room) munmap(begin + pages_end, room - pages_end);
  return at;
}

// mapFile(fd, [at, bytes, ...]): { buffer, close }; the parts named are mapped at once. Each call is
// a mapping of its own, also of the same file: two isolates must never share one address, since each
// runs a finalizer for it.
Napi::Value MapFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = FdArgument(info);
  struct stat status {};
  if (fstat(fd, &status) != 0) {
    Throw(env, {errno, "fstat", "state file"});
    return env.Undefined();
  }
  const size_t bytes = static_cast<size_t>(status.st_size);
  void* at = bytes == 0 ? MAP_FAILED : MapShared(fd, bytes);
  if (at == MAP_FAILED) {
    Throw(env, {bytes == 0 ? EINVAL : errno, "mmap", "state file"});
    return env.Undefined();
  }
  Mapping mapping(at, bytes);
  if (info.Length() > 1 && info[1].IsArray()) {
    const auto parts = info[1].As<Napi::Array>();
    for (uint32_t i = 0; i + 1 < parts.Length(); i += 2) {
      const auto part_at = static_cast<size_t>(parts.Get(i).ToNumber().Int64Value());
      const auto part_bytes = static_cast<size_t>(parts.Get(i + 1).ToNumber().Int64Value());
      if (Failure failure = Touch(static_cast<uint8_t*>(at), bytes, part_at, part_bytes)) {
        Throw(env, failure);
        return env.Undefined();
      }
    }
  }
  Holder* holder = Holder::Make(env, new RegionOwner(std::move(mapping)));
  napi_value result = nullptr;
  napi_value buffer = holder->MakeBuffer(at, bytes);
  if (buffer == nullptr) {
    Throw(env, {ENOMEM, "napi_create_external_arraybuffer", "state file"});
  } else {
    napi_create_object(env, &result);
    napi_set_named_property(env, result, "buffer", buffer);
    AddFunction(env, result, "close", CallClose, holder);
  }
  holder->DropReference();
  return Napi::Value(env, result);
}

}  // namespace

void InitRegion(Napi::Env env, Napi::Object exports) {
  exports.Set("lockFile", Napi::Function::New(env, LockFile, "lockFile"));
  exports.Set("allocateFile", Napi::Function::New(env, AllocateFile, "allocateFile"));
  exports.Set("mapFile", Napi::Function::New(env, MapFile, "mapFile"));
}

}  // namespace headgate

// Users and privileges of this process and of its threads (src/host/privileges.ts says when).
//
// Capabilities, the bounding set and no_new_privs belong to threads. User and groups too, for the
// kernel; the C library changes them in every thread of the process, and ends it should they differ.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "parts.h"
#include "util.h"

namespace headgate {

namespace {

using CapabilitySet = uint64_t;

CapabilitySet Bit(int capability) { return CapabilitySet{1} << capability; }

// Takes what is not in `keep` out of the calling thread's bounding set. Needs CAP_SETPCAP.
Failure LimitBoundingSet(CapabilitySet keep) {
  for (int capability = 0; capability < 64; capability += 1) {
    const int held = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (held < 0) break;  // the kernel's last one was before
    if (held == 0 || (keep & Bit(capability)) != 0) continue;
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) {
      return {errno, "prctl(PR_CAPBSET_DROP)", std::to_string(capability)};
    }
  }
  return {};
}

// Makes `keep` all that the calling thread may use, and what its children inherit (ambient).
Failure SetCapabilities(CapabilitySet keep) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  for (size_t i = 0; i < data.size(); i += 1) {
    const auto half = static_cast<uint32_t>(keep >> (32 * i));
    data[i] = {half, half, half};
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
    return {errno, "prctl(PR_CAP_AMBIENT)", "clear"};
  }
  if (syscall(SYS_capset, &header, data.data()) != 0) return {errno, "capset", ""};
  for (int capability = 0; capability < 64; capability += 1) {
    if ((keep & Bit(capability)) == 0) continue;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0) {
      return {errno, "prctl(PR_CAP_AMBIENT)", std::to_string(capability)};
    }
  }
  return {};
}

Failure BecomeUser(uid_t uid, gid_t gid, const std::vector<gid_t>& groups, CapabilitySet keep) {
  if (Failure failure = LimitBoundingSet(keep)) return failure;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return {errno, "prctl(PR_SET_NO_NEW_PRIVS)", ""};
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return {errno, "prctl(PR_SET_KEEPCAPS)", ""};
  const std::string subject = std::to_string(uid);
  if (setgroups(groups.size(), groups.data()) != 0) return {errno, "setgroups", subject};
  if (setresgid(gid, gid, gid) != 0) return {errno, "setresgid", std::to_string(gid)};
  if (setresuid(uid, uid, uid) != 0) return {errno, "setresuid", subject};
  if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) != 0) return {errno, "prctl(PR_SET_KEEPCAPS)", ""};
  return SetCapabilities(keep);
}

// Leaves the calling thread, and the threads and programs that it makes, without any capability and
// without a way to one. A thread that may not change its bounding set needs no such change: what it may
// not gain by no_new_privs it cannot gain by that set.
Failure GiveUpCapabilities() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return {errno, "prctl(PR_SET_NO_NEW_PRIVS)", ""};
  if (Failure failure = LimitBoundingSet(0); failure && failure.code != EPERM) return failure;
  return SetCapabilities(0);
}

CapabilitySet ReadSet(const Napi::Value& capabilities) {
  CapabilitySet set = 0;
  const auto list = capabilities.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i += 1) {
    set |= Bit(list.Get(i).As<Napi::Number>().Int32Value() & 63);
  }
  return set;
}

Napi::Value Answer(Napi::Env env, const Failure& failure) {
  if (failure) Throw(env, failure);
  return env.Undefined();
}

// findUser(name, uid): by name, or by number when the name is empty. {name, uid, gid, groups}, or
// null when there is no such user.
Napi::Value FindUser(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string name = info[0].As<Napi::String>().Utf8Value();
  passwd entry{};
  passwd* found = nullptr;
  std::vector<char> room(16384);
  int code = 0;
  do {
    code = name.empty()
               ? getpwuid_r(info[1].As<Napi::Number>().Uint32Value(), &entry, room.data(),
                            room.size(), &found)
               : getpwnam_r(name.c_str(), &entry, room.data(), room.size(), &found);
    if (code == ERANGE) room.resize(room.size() * 2);
  } while (code == ERANGE && room.size() <= (1 << 20));
  if (found == nullptr) return env.Null();
  int count = 64;
  std::vector<gid_t> groups(static_cast<size_t>(count));
  if (getgrouplist(entry.pw_name, entry.pw_gid, groups.data(), &count) < 0) {
    groups.resize(static_cast<size_t>(count));
    (void)getgrouplist(entry.pw_name, entry.pw_gid, groups.data(), &count);
  }
  groups.resize(static_cast<size_t>(count));
  Napi::Array list = Napi::Array::New(env, groups.size());
  for (uint32_t i = 0; i < groups.size(); i += 1) list.Set(i, Napi::Number::New(env, groups[i]));
  Napi::Object result = Napi::Object::New(env);
  result.Set("name", Napi::String::New(env, entry.pw_name));
  result.Set("uid", Napi::Number::New(env, entry.pw_uid));
  result.Set("gid", Napi::Number::New(env, entry.pw_gid));
  result.Set("groups", list);
  return result;
}

// becomeUser(uid, gid, groups, keep): every thread gets user and groups; the calling one keeps the
// capabilities, all others lose theirs.
Napi::Value CallBecomeUser(const Napi::CallbackInfo& info) {
  std::vector<gid_t> groups;
  const auto list = info[2].As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i += 1) {
    groups.push_back(list.Get(i).As<Napi::Number>().Uint32Value());
  }
  return Answer(info.Env(), BecomeUser(info[0].As<Napi::Number>().Uint32Value(),
                                       info[1].As<Napi::Number>().Uint32Value(), groups,
                                       ReadSet(info[3])));
}

// limitThread(keep): the calling thread's bounding set.
Napi::Value LimitThread(const Napi::CallbackInfo& info) {
  return Answer(info.Env(), LimitBoundingSet(ReadSet(info[0])));
}

// giveUpCapabilities(): the calling thread's, for good.
Napi::Value CallGiveUpCapabilities(const Napi::CallbackInfo& info) {
  return Answer(info.Env(), GiveUpCapabilities());
}

// withoutAmbient(run): calls `run` while children of this thread would inherit no capability, and gives
// what it gives. What is started in it (fork is a thread's own) has none; the thread keeps its own.
Napi::Value WithoutAmbient(const Napi::CallbackInfo& info) {
  std::vector<int> ambient;
  for (int capability = 0; capability < 64; capability += 1) {
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0) == 1) {
      ambient.push_back(capability);
    }
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
    return Answer(info.Env(), {errno, "prctl(PR_CAP_AMBIENT)", "clear"});
  }
  const Napi::Value result = info[0].As<Napi::Function>().Call({});
  for (const int capability : ambient) {
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0) {
      return Answer(info.Env(), {errno, "prctl(PR_CAP_AMBIENT)", std::to_string(capability)});
    }
  }
  return result;
}

// startAgain(keep, argv, env): this program anew in the same process, with a smaller bounding set and
// no_new_privs, which all its threads then have from their first moment. Returns only to throw.
Napi::Value StartAgain(const Napi::CallbackInfo& info) {
  Failure failure = LimitBoundingSet(ReadSet(info[0]));
  if (!failure && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    failure = {errno, "prctl(PR_SET_NO_NEW_PRIVS)", ""};
  }
  if (failure) return Answer(info.Env(), failure);
  std::array<std::vector<std::string>, 2> texts;
  std::array<std::vector<char*>, 2> pointers;
  for (size_t which = 0; which < texts.size(); which += 1) {
    const auto list = info[1 + which].As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); i += 1) {
      texts[which].push_back(list.Get(i).As<Napi::String>().Utf8Value());
    }
    for (std::string& text : texts[which]) pointers[which].push_back(text.data());
    pointers[which].push_back(nullptr);
  }
  // Node has set all descriptors that it was given to close at exec.
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd += 1) (void)fcntl(fd, F_SETFD, 0);
  execve("/proc/self/exe", pointers[0].data(), pointers[1].data());
  return Answer(info.Env(), {errno, "execve", "/proc/self/exe"});
}

}  // namespace

void InitPrivileges(Napi::Env env, Napi::Object exports) {
  exports.Set("findUser", Napi::Function::New(env, FindUser, "findUser"));
  exports.Set("becomeUser", Napi::Function::New(env, CallBecomeUser, "becomeUser"));
  exports.Set("limitThread", Napi::Function::New(env, LimitThread, "limitThread"));
  exports.Set("giveUpCapabilities",
              Napi::Function::New(env, CallGiveUpCapabilities, "giveUpCapabilities"));
  exports.Set("withoutAmbient", Napi::Function::New(env, WithoutAmbient, "withoutAmbient"));
  exports.Set("startAgain", Napi::Function::New(env, StartAgain, "startAgain"));
}

}  // namespace headgate

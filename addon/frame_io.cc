#include "frame_io.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace headgate {

namespace {

struct Call {
  Holder* holder = nullptr;
  FrameIo* io = nullptr;
  int32_t argument = 0;
  int32_t second = 0;
};

// Raw Node-API: these run once a batch, and the C++ wrapper of a call costs more than the call.
Call ReadCall(napi_env env, napi_callback_info info) {
  Call call;
  size_t count = 2;
  napi_value arguments[2] = {};
  void* data = nullptr;
  napi_get_cb_info(env, info, &count, arguments, nullptr, &data);
  call.holder = static_cast<Holder*>(data);
  call.io = static_cast<FrameIo*>(call.holder->owner());
  if (count > 0) napi_get_value_int32(env, arguments[0], &call.argument);
  if (count > 1) napi_get_value_int32(env, arguments[1], &call.second);
  return call;
}

napi_value MakeInt(napi_env env, int32_t value) {
  napi_value result = nullptr;
  napi_create_int32(env, value, &result);
  return result;
}

napi_value CallReceive(napi_env env, napi_callback_info info) {
  const Call call = ReadCall(env, info);
  if (call.io == nullptr) return MakeInt(env, -EBADF);
  call.io->calls += 1;
  return MakeInt(env, call.io->Receive(call.argument));
}

napi_value CallTransmit(napi_env env, napi_callback_info info) {
  const Call call = ReadCall(env, info);
  if (call.io == nullptr) return MakeInt(env, -EBADF);
  if (call.argument < 0 || call.argument > kOutFramesMax) return MakeInt(env, -EINVAL);
  call.io->calls += 1;
  const int sent = call.io->Transmit(call.argument);
  if (call.second != 0) call.io->Wake(static_cast<uint32_t>(call.second));
  return MakeInt(env, sent);
}

napi_value CallStatistics(napi_env env, napi_callback_info info) {
  const Call call = ReadCall(env, info);
  napi_value result = nullptr;
  if (call.io == nullptr) return result;
  const IoStatistics statistics = call.io->ReadStatistics();
  napi_create_object(env, &result);
  SetNumber(env, result, "missed", statistics.missed);
  SetNumber(env, result, "skipped", statistics.skipped);
  SetNumber(env, result, "calls", call.io->calls);
  return result;
}

// setSpin(microseconds)
napi_value CallSetSpin(napi_env env, napi_callback_info info) {
  const Call call = ReadCall(env, info);
  if (call.io != nullptr) call.io->spin_us = call.argument;
  return nullptr;
}

napi_value CallClose(napi_env env, napi_callback_info info) {
  ReadCall(env, info).holder->Close();
  return nullptr;
}

napi_value MakeText(napi_env env, const std::string& text) {
  napi_value result = nullptr;
  napi_create_string_utf8(env, text.data(), text.size(), &result);
  return result;
}

}  // namespace

napi_value MakeDevice(napi_env env, FrameIo* io) {
  Holder* holder = Holder::Make(env, io);
  napi_value buffer = holder->MakeBuffer(io->memory.at(), io->memory.bytes());
  napi_value result = nullptr;
  if (buffer == nullptr) {
    Throw(env, {ENOMEM, "napi_create_external_arraybuffer", "frame memory"});
  } else {
    napi_create_object(env, &result);
    napi_set_named_property(env, result, "memory", buffer);
    SetNumber(env, result, "rxAt", kRxAt);
    SetNumber(env, result, "txAt", kTxAt);
    SetNumber(env, result, "tickAt", kTickAt);
    SetNumber(env, result, "mtuAt", kMtuAt);
    SetNumber(env, result, "spareAt", static_cast<double>(io->spare_at));
    SetNumber(env, result, "spareBytes", static_cast<double>(io->spare_bytes));
    SetNumber(env, result, "spareCount", kSpareCount);
    SetNumber(env, result, "inletAt", static_cast<double>(io->inlet_at));
    SetNumber(env, result, "inletSlotBytes", kInletSlotBytes);
    SetNumber(env, result, "inletSlots", io->inlet_at == 0 ? 0 : kInletSlots);
    napi_value groups = nullptr;
    napi_create_array_with_length(env, io->groups.size(), &groups);
    for (size_t i = 0; i < io->groups.size(); i += 1) {
      napi_set_element(env, groups, static_cast<uint32_t>(i), MakeNumber(env, io->groups[i]));
    }
    napi_set_named_property(env, result, "groups", groups);
    napi_value list = nullptr;
    napi_create_array_with_length(env, io->interfaces.size(), &list);
    for (size_t i = 0; i < io->interfaces.size(); i += 1) {
      const InterfaceInfo& info = io->interfaces[i];
      napi_value entry = nullptr;
      napi_create_object(env, &entry);
      napi_set_named_property(env, entry, "name", MakeText(env, info.name));
      SetNumber(env, entry, "index", info.index);
      napi_set_named_property(env, entry, "mac", MakeText(env, info.mac));
      napi_set_element(env, list, static_cast<uint32_t>(i), entry);
    }
    napi_set_named_property(env, result, "interfaces", list);
    AddFunction(env, result, "receive", CallReceive, holder);
    AddFunction(env, result, "transmit", CallTransmit, holder);
    AddFunction(env, result, "statistics", CallStatistics, holder);
    AddFunction(env, result, "setSpin", CallSetSpin, holder);
    AddFunction(env, result, "close", CallClose, holder);
  }
  holder->DropReference();
  return result;
}

Crew ReadCrew(const Napi::Value& value) {
  Crew crew;
  if (!value.IsObject()) return crew;
  const auto object = value.As<Napi::Object>();
  const auto numbers = [&object](const char* name) {
    std::vector<int> list;
    const auto array = object.Get(name).As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); i += 1) {
      list.push_back(array.Get(i).ToNumber().Int32Value());
    }
    return list;
  };
  crew.worker = object.Get("worker").ToNumber().Int32Value();
  crew.program = object.Get("programFd").ToNumber().Int32Value();
  crew.groups = numbers("groups");
  crew.wakes = numbers("wakeFds");
  crew.workers = static_cast<int>(crew.wakes.size());
  return crew;
}

Failure FrameIo::KeepWakes(const std::vector<int>& wakes) {
  for (const int wake : wakes) {
    Fd copy(fcntl(wake, F_DUPFD_CLOEXEC, 0));
    if (!copy.ok()) return {errno, "fcntl", "wakeFds"};
    wakes_.push_back(std::move(copy));
  }
  return {};
}

void FrameIo::Wake(uint32_t mask) const {
  const uint64_t one = 1;
  for (size_t i = 0; i < wakes_.size(); i += 1) {
    // A counter at its largest refuses more, and its sleeper is awake anyway.
    if ((mask >> i & 1) != 0 && write(wakes_[i].get(), &one, sizeof one) < 0) continue;
  }
}

void DrainWake(int wake_fd) {
  uint64_t count = 0;
  // Empty is fine: another wake-up may have been counted into the one that was read before.
  if (read(wake_fd, &count, sizeof count) < 0) return;
}

Failure ReadEthernet(int socket, const std::string& name, InterfaceInfo* info) {
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  if (ioctl(socket, SIOCGIFINDEX, &request) != 0) return {errno, "SIOCGIFINDEX", name};
  info->name = name;
  info->index = request.ifr_ifindex;
  if (ioctl(socket, SIOCGIFHWADDR, &request) != 0) return {errno, "SIOCGIFHWADDR", name};
  if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER) return {EINVAL, "interface", name};
  const auto* mac = reinterpret_cast<const uint8_t*>(request.ifr_hwaddr.sa_data);
  char text[18];
  snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
           mac[4], mac[5]);
  info->mac = text;
  if (ioctl(socket, SIOCGIFFLAGS, &request) != 0) return {errno, "SIOCGIFFLAGS", name};
  if ((request.ifr_flags & IFF_UP) == 0) return {ENETDOWN, "interface", name};
  info->mtu = ReadMtu(socket, info->index, nullptr);
  if (info->mtu < 0) return {-info->mtu, "SIOCGIFMTU", name};
  return {};
}

int ReadMtu(int socket, int index, std::string* name) {
  ifreq request{};
  request.ifr_ifindex = index;
  if (ioctl(socket, SIOCGIFNAME, &request) != 0) return -errno;
  if (name != nullptr) *name = request.ifr_name;
  if (ioctl(socket, SIOCGIFMTU, &request) != 0) return -errno;
  return request.ifr_mtu;
}

}  // namespace headgate

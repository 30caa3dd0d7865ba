// Small owners of kernel resources. No Node-API here: programs of the bench include it too.
#ifndef HEADGATE_ADDON_OWN_H_
#define HEADGATE_ADDON_OWN_H_

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace headgate {

// A failed system call: which one, on what, and errno. `code` 0 means "no failure".
struct Failure {
  int code = 0;
  const char* call = "";
  std::string subject;

  explicit operator bool() const { return code != 0; }
};

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { Close(); }

  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  // Gives it up: the caller owns it.
  int Release() { return std::exchange(fd_, -1); }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

// Owns a range of mapped memory.
class Mapping {
 public:
  Mapping() = default;
  Mapping(void* at, size_t bytes) : at_(static_cast<uint8_t*>(at)), bytes_(bytes) {}
  Mapping(Mapping&& other) noexcept
      : at_(std::exchange(other.at_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      Unmap();
      at_ = std::exchange(other.at_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { Unmap(); }

  uint8_t* at() const { return at_; }
  size_t bytes() const { return bytes_; }
  void Unmap() {
    if (at_ != nullptr) munmap(at_, bytes_);
    at_ = nullptr;
    bytes_ = 0;
  }

 private:
  uint8_t* at_ = nullptr;
  size_t bytes_ = 0;
};

constexpr size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace headgate

#endif  // HEADGATE_ADDON_OWN_H_

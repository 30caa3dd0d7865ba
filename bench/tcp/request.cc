// New connections a second, and the latency of requests: a client and a server, one thread each.
// bench/tcp/request.ts builds and runs it, inside the lab's namespaces only.
//
//   request serve ADDRESS PORT
//     Answers each request of 64 bytes with 64 bytes; one that begins with 'C' is the last of its
//     connection, which the server then closes. Prints "ready"; ends with SIGTERM, or after 1 hour.
//   request connect ADDRESS PORT SOURCE SOURCES AT_ONCE SECONDS
//     Opens connections, AT_ONCE at a time, from SOURCES addresses from SOURCE on in turn (ports are
//     the kernel's choice); each sends one request, reads the answer to its end and is closed. Prints
//     {connections, failed, seconds, p50, p99, p999, cpuSeconds, busySeconds}: the time from the SYN
//     to the end of the answer, in microseconds.
//   request ask ADDRESS PORT SECONDS
//     One connection, one request after the other; prints the same, with `connections` the number of
//     answers.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "../traffic/common.h"

namespace {

constexpr size_t kMessage = 64;
constexpr int kEvents = 256;

volatile sig_atomic_t ended = 0;
void End(int) { ended = 1; }

void CatchEnd() {
  struct sigaction action {};
  action.sa_handler = End;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

sockaddr_in AddressOf(const char* address, const char* port) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(atoi(port)));
  errno = EINVAL;
  if (inet_pton(AF_INET, address, &to.sin_addr) != 1) Die(address);
  return to;
}

void SetNoDelay(int fd) {
  const int one = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

void Watch(int epoll, int operation, int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll, operation, fd, &event) != 0) Die("epoll_ctl");
}

// One message of the server: the whole answer, or the connection's end.
void Answer(int fd) {
  char message[kMessage];
  while (true) {
    // A request is far smaller than a segment, so it comes whole.
    const ssize_t got = recv(fd, message, sizeof message, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got != static_cast<ssize_t>(kMessage)) break;
    if (send(fd, message, sizeof message, MSG_NOSIGNAL) != static_cast<ssize_t>(kMessage)) break;
    if (message[0] == 'C') break;
  }
  close(fd);
}

int Serve(const char* address, const char* port) {
  CatchEnd();
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const int one = 1;
  if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) Die("socket");
  const sockaddr_in at = AddressOf(address, port);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0 || listen(listener, 65535) != 0) {
    Die("listen");
  }
  const int epoll = epoll_create1(0);
  Watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN);
  printf("ready\n");
  fflush(stdout);
  const double end = Now() + 3600;
  while (ended == 0 && Now() < end) {
    epoll_event events[kEvents];
    const int count = epoll_wait(epoll, events, kEvents, 1000);
    for (int i = 0; i < count; i += 1) {
      if (events[i].data.fd != listener) {
        Answer(events[i].data.fd);
        continue;
      }
      for (int taken = 0; taken < kEvents; taken += 1) {
        const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
        if (fd < 0) break;
        SetNoDelay(fd);
        Watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
      }
    }
  }
  return 0;
}

void Print(std::vector<uint32_t>& times, uint64_t failed, double seconds, double used, double busy) {
  std::sort(times.begin(), times.end());
  const auto at = [&times](double share) {
    if (times.empty()) return 0.0;
    return times[static_cast<size_t>(share * static_cast<double>(times.size() - 1))] / 1e3;
  };
  printf("{\"connections\":%zu,\"failed\":%llu,\"seconds\":%f,\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f,"
         "\"cpuSeconds\":%f,\"busySeconds\":%f}\n",
         times.size(), static_cast<unsigned long long>(failed), seconds, at(0.5), at(0.99), at(0.999), used, busy);
}

class Client {
 public:
  Client(const sockaddr_in& to, uint32_t source, uint32_t sources) : to_(to), source_(source), sources_(sources) {
    epoll_ = epoll_create1(0);
    begun_.resize(1 << 16);
  }

  void Open() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || static_cast<size_t>(fd) >= begun_.size()) Die("socket");
    SetNoDelay(fd);
    // The port is chosen with the destination known, so that all of them can be used again.
    const int one = 1;
    (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    sockaddr_in from{};
    from.sin_family = AF_INET;
    from.sin_addr.s_addr = htonl(source_ + next_++ % sources_);
    if (bind(fd, reinterpret_cast<sockaddr*>(&from), sizeof from) != 0) Die("bind");
    begun_[static_cast<size_t>(fd)] = NowNs();
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to_), sizeof to_) != 0 && errno != EINPROGRESS) {
      failed += 1;
      close(fd);
      return;
    }
    open_ += 1;
    Watch(epoll_, EPOLL_CTL_ADD, fd, EPOLLOUT);
  }

  void Turn(int at_once, bool opens) {
    while (opens && open_ < at_once) Open();
    epoll_event events[kEvents];
    const int count = epoll_wait(epoll_, events, kEvents, 100);
    for (int i = 0; i < count; i += 1) Handle(events[i].data.fd, events[i].events);
  }

  int open() const { return open_; }
  std::vector<uint32_t> times;
  uint64_t failed = 0;

 private:
  void Handle(int fd, uint32_t events) {
    char message[kMessage] = {'C'};
    if ((events & EPOLLOUT) != 0 && (events & (EPOLLERR | EPOLLHUP)) == 0) {
      if (send(fd, message, sizeof message, MSG_NOSIGNAL) == static_cast<ssize_t>(kMessage)) {
        Watch(epoll_, EPOLL_CTL_MOD, fd, EPOLLIN);
        return;
      }
    } else {
      const ssize_t got = recv(fd, message, sizeof message, 0);
      if (got > 0) return;
      if (got < 0 && errno == EAGAIN) return;
      if (got == 0) {
        times.push_back(static_cast<uint32_t>(NowNs() - begun_[static_cast<size_t>(fd)]));
        open_ -= 1;
        close(fd);
        return;
      }
    }
    failed += 1;
    open_ -= 1;
    close(fd);
  }

  sockaddr_in to_;
  uint32_t source_;
  uint32_t sources_;
  uint32_t next_ = 0;
  int epoll_ = -1;
  int open_ = 0;
  std::vector<uint64_t> begun_;
};

int Connect(char** arguments) {
  CatchEnd();
  in_addr source{};
  if (inet_pton(AF_INET, arguments[2], &source) != 1) Die("source");
  const int sources = atoi(arguments[3]);
  const int at_once = atoi(arguments[4]);
  const double seconds = atof(arguments[5]);
  errno = EINVAL;
  if (sources < 1 || at_once < 1 || at_once > 10000 || !(seconds > 0) || seconds > 60) Die("arguments");
  Client client(AddressOf(arguments[0], arguments[1]), ntohl(source.s_addr), static_cast<uint32_t>(sources));
  client.times.reserve(1 << 22);
  const double used = Used(), busy = Busy(), start = Now();
  while (ended == 0 && Now() - start < seconds) client.Turn(at_once, true);
  const double took = Now() - start;
  const double used_now = Used() - used, busy_now = Busy() - busy;
  const size_t finished = client.times.size();
  // What is open then is closed in order, and not counted.
  for (const double until = Now() + 1; client.open() > 0 && Now() < until;) client.Turn(at_once, false);
  client.times.resize(finished);
  Print(client.times, client.failed, took, used_now, busy_now);
  return 0;
}

int Ask(char** arguments) {
  CatchEnd();
  const sockaddr_in to = AddressOf(arguments[0], arguments[1]);
  const double seconds = atof(arguments[2]);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  SetNoDelay(fd);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) Die("connect");
  std::vector<uint32_t> times;
  times.reserve(1 << 22);
  const double used = Used(), busy = Busy(), start = Now();
  uint64_t failed = 0;
  while (ended == 0 && Now() - start < seconds) {
    char message[kMessage] = {'A'};
    const uint64_t from = NowNs();
    if (send(fd, message, sizeof message, MSG_NOSIGNAL) != static_cast<ssize_t>(kMessage) ||
        recv(fd, message, sizeof message, MSG_WAITALL) != static_cast<ssize_t>(kMessage)) {
      failed += 1;
      break;
    }
    times.push_back(static_cast<uint32_t>(NowNs() - from));
  }
  Print(times, failed, Now() - start, Used() - used, Busy() - busy);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 4 && strcmp(arguments[1], "serve") == 0) return Serve(arguments[2], arguments[3]);
  if (count == 8 && strcmp(arguments[1], "connect") == 0) return Connect(arguments + 2);
  if (count == 5 && strcmp(arguments[1], "ask") == 0) return Ask(arguments + 2);
  fprintf(stderr, "usage: request serve ADDRESS PORT | connect ADDRESS PORT SOURCE SOURCES AT_ONCE SECONDS |"
                  " ask ADDRESS PORT SECONDS\n");
  return 2;
}

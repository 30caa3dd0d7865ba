// A bounded generator of UDP frames on AF_XDP, and a receiver that looks at every one of them.
// bench/traffic.ts builds and runs it, inside the lab's namespaces only.
//
//   traffic generate INTERFACE CPU RATE BURST SECONDS COUNT BYTES FLOWS SOURCE_MAC SOURCE TARGET...
//     UDP frames of BYTES (60 to 1,514, even), from FLOWS pairs of address and port that differ and
//     have no order (RFC 4814 section 4.5): addresses SOURCE and the 199 after it, ports 1024-65535.
//     Flow i goes to TARGET i modulo their number, each MAC/ADDRESS/PORT; flows take turns. RATE:
//     frames a second, in bursts of BURST (1 to 64), each sent by one kick; 0: as fast as it goes.
//     Ends after SECONDS, or COUNT frames when COUNT is not 0. Prints
//     {offered, seconds, cpuSeconds, busySeconds}: cpuSeconds is its own CPU time, with what the
//     kernel does in its context; busySeconds is the busy time of the whole machine meanwhile
//     (/proc/stat: all but idle and iowait, all CPUs).
//   traffic receive INTERFACE PORT
//     Counts the frames of `generate` to UDP port PORT until it gets SIGTERM (or 60 s are over);
//     prints "ready" when it listens, then {frames, distinct, flows, badChecksums, otherHost}.
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <vector>

#include "../../addon/xsk.h"
#include "common.h"

namespace {

using headgate::Failure;
using headgate::XskGroup;
using headgate::XskRing;
using headgate::XskSettings;

constexpr size_t kChunkBytes = 2048;
constexpr size_t kChunks = 2048;
// The kernel refuses a frame without room for metadata before it, where the UMEM has any.
constexpr size_t kFrameAt = 64;
static_assert(kFrameAt >= headgate::kXskTxMetadataBytes && kFrameAt + kFrameBytesMax <= kChunkBytes);
constexpr uint32_t kRing = 2048;
constexpr size_t kBurstMax = 64;
constexpr size_t kFlowsMax = 1 << 20;
constexpr uint32_t kAddresses = 200;
constexpr uint32_t kPortMin = 1024;
constexpr uint32_t kPorts = 65536 - kPortMin;
constexpr uint32_t kNumbersMax = 1 << 28;
// Only what differs between flows; the rest of all frames is the same, and lies in every chunk.
constexpr size_t kHeadBytes = kNumber;

bool ReadMac(const char* text, uint8_t* out) {
  return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", out, out + 1, out + 2, out + 3, out + 4,
                out + 5) == 6;
}

struct Target {
  uint8_t mac[6];
  uint8_t address[4];
  uint32_t port;
};

Target ReadTarget(char* text) {
  Target target{};
  char* address = strchr(text, '/');
  char* port = address == nullptr ? nullptr : strchr(address + 1, '/');
  if (port == nullptr) Die("a target is MAC/ADDRESS/PORT");
  *address = 0;
  *port = 0;
  if (!ReadMac(text, target.mac) || inet_pton(AF_INET, address + 1, target.address) != 1) Die(text);
  target.port = static_cast<uint32_t>(atoi(port + 1));
  return target;
}

struct Load {
  const char* interface;
  int cpu;
  double rate;
  size_t burst;
  double seconds;
  uint64_t count;
  size_t bytes;
  size_t flows;
  uint8_t mac[6];
  uint8_t address[4];
  std::vector<Target> targets;
};

Load ReadLoad(int count, char** arguments) {
  Load load{};
  load.interface = arguments[0];
  load.cpu = atoi(arguments[1]);
  load.rate = atof(arguments[2]);
  load.burst = strtoul(arguments[3], nullptr, 10);
  load.seconds = atof(arguments[4]);
  load.count = strtoull(arguments[5], nullptr, 10);
  load.bytes = strtoul(arguments[6], nullptr, 10);
  load.flows = strtoul(arguments[7], nullptr, 10);
  errno = EINVAL;
  if (!ReadMac(arguments[8], load.mac) || inet_pton(AF_INET, arguments[9], load.address) != 1) Die("source");
  if (load.flows == 0 || load.flows > kFlowsMax) Die("flows");
  if (!(load.seconds > 0) || load.seconds > 4000 || load.rate < 0) Die("seconds or rate");
  if (load.burst == 0 || load.burst > kBurstMax) Die("burst");
  if (load.bytes < kFrameBytesMin || load.bytes > kFrameBytesMax || load.bytes % 2 != 0) Die("bytes");
  for (int i = 10; i < count; i += 1) load.targets.push_back(ReadTarget(arguments[i]));
  return load;
}

// Ethernet, IPv4 and UDP headers of every flow, checksums done for number 0 and stamp 0.
std::vector<uint8_t> MakeHeads(const Load& load) {
  std::vector<uint8_t> heads(load.flows * 64);
  const uint32_t source = Get32(load.address);
  // i * kStep modulo all pairs meets each once: 12,902,400 and this prime have no common factor.
  constexpr uint64_t kPairs = static_cast<uint64_t>(kAddresses) * kPorts;
  constexpr uint64_t kStep = 7'946'811'137;
  uint8_t frame[kFrameBytesMax] = {};
  for (size_t flow = 0; flow < load.flows; flow += 1) {
    const uint64_t pair = flow * kStep % kPairs;
    const Target& target = load.targets[flow % load.targets.size()];
    uint8_t* at = frame;
    memcpy(at, target.mac, 6);
    memcpy(at + 6, load.mac, 6);
    Put16(at + 12, ETH_P_IP);
    memset(at + kIp, 0, 28);
    at[kIp] = 0x45;
    Put16(at + kIp + 2, static_cast<uint32_t>(load.bytes - kIp));
    at[kIp + 8] = 64;
    at[kIp + 9] = IPPROTO_UDP;
    Put32(at + kIp + 12, source + static_cast<uint32_t>(pair % kAddresses));
    memcpy(at + kIp + 16, target.address, 4);
    Put16(at + kIp + 10, ~Sum(at + kIp, 20, 0));
    Put16(at + kUdp, kPortMin + static_cast<uint32_t>(pair / kAddresses));
    Put16(at + kUdp + 2, target.port);
    Put16(at + kUdp + 4, static_cast<uint32_t>(load.bytes - kUdp));
    Put32(at + kNumber + 4, ~0u);
    Put32(at + kStamp + 4, ~0u);
    const uint32_t sum = ~SumUdp(at) & 0xffff;
    Put16(at + kUdp + 6, sum == 0 ? 0xffff : sum);
    memcpy(heads.data() + flow * 64, frame, kHeadBytes);
  }
  return heads;
}

// An AF_XDP socket that only sends, and its frames: chunk i of the ring's entry i, always.
class Sender {
 public:
  explicit Sender(const char* interface) {
    XskSettings settings;
    settings.chunks = kChunks;
    settings.chunk_bytes = kChunkBytes;
    settings.tx_entries = kRing;
    settings.completion_entries = kRing;
    settings.zero_copy = headgate::ZeroCopy::kAuto;
    size_t rings_bytes = 0;
    Check(group_.MeasureRings(settings, &rings_bytes));
    umem_ = Map(kChunks * kChunkBytes);
    rings_ = Map(rings_bytes);
    Check(group_.Open(settings, umem_, rings_, {{IndexOf(interface), interface, 0, false}}));
    memset(umem_, 0, kChunks * kChunkBytes);
  }

  // Room in the ring for a burst; entries whose frames are sent come back through completions.
  bool HasRoom(size_t frames) {
    const XskRing& completion = group_.sockets[0].completion;
    const uint32_t done = __atomic_load_n(completion.producer, __ATOMIC_ACQUIRE);
    free_ += done - *completion.consumer;
    __atomic_store_n(completion.consumer, done, __ATOMIC_RELEASE);
    return free_ >= frames;
  }

  // The frame of the next entry. Copies complete in order, so its chunk is free.
  uint8_t* Next() { return umem_ + At(*group_.sockets[0].tx.producer + filled_); }
  void Put(size_t bytes) {
    const XskRing& tx = group_.sockets[0].tx;
    const uint32_t position = *tx.producer + filled_;
    tx.Descriptor(position) = {At(position), static_cast<uint32_t>(bytes), 0};
    filled_ += 1;
  }
  void Send() {
    const XskRing& tx = group_.sockets[0].tx;
    free_ -= filled_;
    __atomic_store_n(tx.producer, *tx.producer + filled_, __ATOMIC_RELEASE);
    filled_ = 0;
    if (const int code = group_.Kick(0); code != 0) {
      errno = code;
      Die("send");
    }
  }
  // Frames that the kernel has not taken yet.
  uint32_t Waiting() const {
    const XskRing& tx = group_.sockets[0].tx;
    return *tx.producer - __atomic_load_n(tx.consumer, __ATOMIC_ACQUIRE);
  }
  void Kick() { (void)group_.Kick(0); }

 private:
  static uint64_t At(uint32_t position) { return position % kChunks * kChunkBytes + kFrameAt; }
  static void Check(const Failure& failure) {
    if (!failure) return;
    errno = failure.code;
    Die((std::string(failure.call) + " " + failure.subject).c_str());
  }
  static uint8_t* Map(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at == MAP_FAILED) Die("mmap");
    return static_cast<uint8_t*>(at);
  }

  XskGroup group_;
  uint8_t* umem_ = nullptr;
  uint8_t* rings_ = nullptr;
  uint32_t free_ = kRing;
  uint32_t filled_ = 0;
};

int Generate(int count, char** arguments) {
  const Load load = ReadLoad(count, arguments);
  PinTo(load.cpu);
  prctl(PR_SET_TIMERSLACK, 1000);
  const std::vector<uint8_t> heads = MakeHeads(load);
  Sender sender(load.interface);

  uint64_t put = 0;
  size_t flow = 0;
  const double used = Used();
  const double busy = Busy();
  const double start = Now();
  double now = start;
  while (now - start < load.seconds && (load.count == 0 || put < load.count)) {
    size_t burst = load.burst;
    if (load.count != 0 && load.count - put < burst) burst = static_cast<size_t>(load.count - put);
    if (load.rate > 0) {
      const double due = (now - start) * load.rate - static_cast<double>(put);
      if (due < static_cast<double>(burst)) {
        const double wait = (static_cast<double>(burst) - due) / load.rate;
        // A frame's time is short against a timer's: what is due within 70 us is waited for awake.
        if (wait > 7e-5) Sleep(wait - 6e-5);
        now = Now();
        continue;
      }
    }
    if (!sender.HasRoom(burst)) {
      sender.Kick();
      now = Now();
      continue;
    }
    const uint32_t stamp = static_cast<uint32_t>(NowNs());
    const uint32_t inverse = ~stamp;
    for (size_t i = 0; i < burst; i += 1) {
      uint8_t* at = sender.Next();
      memcpy(at, heads.data() + flow * 64, kHeadBytes);
      const uint32_t number = static_cast<uint32_t>(put);
      Put32(at + kNumber, number);
      Put32(at + kNumber + 4, ~number);
      memcpy(at + kStamp, &stamp, 4);
      memcpy(at + kStamp + 4, &inverse, 4);
      sender.Put(load.bytes);
      put += 1;
      flow = flow + 1 == load.flows ? 0 : flow + 1;
    }
    sender.Send();
    now = Now();
  }
  for (int tries = 0; sender.Waiting() > 0 && tries < 100; tries += 1) sender.Kick();
  printf("{\"offered\":%llu,\"seconds\":%f,\"cpuSeconds\":%f,\"busySeconds\":%f}\n",
         static_cast<unsigned long long>(put - sender.Waiting()), Now() - start, Used() - used, Busy() - busy);
  return 0;
}

volatile sig_atomic_t ended = 0;
void End(int) { ended = 1; }

int Receive(const char* interface, uint32_t port) {
  struct sigaction action {};
  action.sa_handler = End;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
  if (fd < 0) Die("socket");
  const int bytes = 64 << 20;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0) Die("SO_RCVBUFFORCE");
  const int one = 1;
  if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) != 0) Die("PACKET_IGNORE_OUTGOING");
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = IndexOf(interface);
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Die("bind");
  printf("ready\n");
  fflush(stdout);
  std::vector<uint64_t> seen(kNumbersMax / 64);
  std::vector<bool> flows(static_cast<size_t>(256) * 65536);
  uint64_t frames = 0, distinct = 0, flow_count = 0, bad = 0, other = 0;
  const double end = Now() + 60;
  pollfd waiting = {fd, POLLIN, 0};
  bool drained = false;
  // After the signal what is already in the socket is still counted.
  while (!drained) {
    if (ended != 0 || Now() > end) drained = true;
    while (true) {
      uint8_t frame[2048];
      sockaddr_ll from{};
      socklen_t from_bytes = sizeof from;
      const ssize_t got = recvfrom(fd, frame, sizeof frame, 0, reinterpret_cast<sockaddr*>(&from), &from_bytes);
      if (got < 0) break;
      if (got < static_cast<ssize_t>(kFrameBytesMin) || Get16(frame + 12) != ETH_P_IP ||
          frame[kIp] != 0x45 || frame[kIp + 9] != IPPROTO_UDP || Get16(frame + kUdp + 2) != port) {
        continue;
      }
      const uint32_t number = Get32(frame + kNumber);
      if (number != ~Get32(frame + kNumber + 4) || number >= kNumbersMax) continue;
      if (from.sll_pkttype == PACKET_OTHERHOST) {
        other += 1;
        continue;
      }
      frames += 1;
      if (Sum(frame + kIp, 20, 0) != 0xffff || SumUdp(frame) != 0xffff) bad += 1;
      const uint64_t bit = 1ULL << (number % 64);
      if ((seen[number / 64] & bit) == 0) distinct += 1;
      seen[number / 64] |= bit;
      const size_t pair = static_cast<size_t>(frame[kIp + 15]) << 16 | Get16(frame + kUdp);
      if (!flows[pair]) flow_count += 1;
      flows[pair] = true;
    }
    if (!drained) poll(&waiting, 1, 20);
  }
  printf("{\"frames\":%llu,\"distinct\":%llu,\"flows\":%llu,\"badChecksums\":%llu,\"otherHost\":%llu}\n",
         static_cast<unsigned long long>(frames), static_cast<unsigned long long>(distinct),
         static_cast<unsigned long long>(flow_count), static_cast<unsigned long long>(bad),
         static_cast<unsigned long long>(other));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count >= 13 && strcmp(arguments[1], "generate") == 0) return Generate(count - 2, arguments + 2);
  if (count == 4 && strcmp(arguments[1], "receive") == 0) {
    return Receive(arguments[2], static_cast<uint32_t>(atoi(arguments[3])));
  }
  fprintf(stderr,
          "usage: traffic generate INTERFACE CPU RATE BURST SECONDS COUNT BYTES FLOWS MAC ADDRESS TARGET...\n"
          "       traffic receive INTERFACE PORT\n");
  return 2;
}

import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  statfsSync,
} from "node:fs";
import path from "node:path";
import { AlreadyRunningError, StateError } from "../base/errors.ts";
import type { Section } from "../state/layout.ts";
import type { MappedRegion, RegionFile, RegionMapper } from "../state/mapper.ts";
import { ERRNO, errnoName, isNativeFailure, nativeAddon } from "./native.ts";

/**
 * The real RegionMapper: a file, its lock, its pages, its mappings.
 *
 * The lock is flock(2) on the open file: it goes with the descriptor, so also with a process that
 * is killed, and a renamed file keeps it. Node opens files with O_CLOEXEC, so no child inherits it.
 */

/** f_type of statfs(2), include/uapi/linux/magic.h. */
const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;

/** Byte offset of H_OWNER_PID (state/layout.ts), for the message that names the owner. */
const OWNER_PID_AT = 12 * 4;

/** The RegionMapper of the operating system. */
export function createRegionMapper(): RegionMapper {
  return { open: openRegionFile, attach: attachRegionFile };
}

function openRegionFile(file: string): RegionFile {
  const fd = openFile(file, constants.O_RDWR | constants.O_CREAT, "open");
  let bytesAtOpen: number;
  let onTmpfs: boolean;
  try {
    if (!nativeAddon().lockFile(fd)) throw inUseError(file, fd);
    const status = fstatSync(fd);
    if (!status.isFile()) {
      throw new StateError(
        `state file ${file}: expected a regular file; choose another flows.stateFile`,
      );
    }
    bytesAtOpen = status.size;
    const { type } = statfsSync(file);
    onTmpfs = type === TMPFS_MAGIC || type === RAMFS_MAGIC;
  } catch (error) {
    closeSync(fd);
    throw stateError(error, file, "open");
  }

  let current = file;
  let isOpen = true;
  const assertOpen = (): void => {
    if (!isOpen) throw new StateError(`state file ${current}: used after close`);
  };
  return {
    bytesAtOpen,
    onTmpfs,
    allocate(bytes) {
      assertOpen();
      try {
        nativeAddon().allocateFile(fd, bytes);
      } catch (error) {
        if (isNativeFailure(error) && error.errno === ERRNO.ENOSPC) {
          throw noRoomError(current, bytes, fstatSync(fd).size);
        }
        throw stateError(error, current, `allocate ${bytes} bytes`);
      }
    },
    map() {
      assertOpen();
      return mapDescriptor(fd, current, []);
    },
    rename(newPath) {
      assertOpen();
      try {
        renameSync(current, newPath);
      } catch (error) {
        throw stateError(error, current, `rename to ${newPath}`);
      }
      current = newPath;
    },
    close() {
      if (isOpen) closeSync(fd);
      isOpen = false;
    },
  };
}

function attachRegionFile(file: string, touched: readonly Section[]): MappedRegion {
  const fd = openFile(file, constants.O_RDWR, "attach");
  try {
    return mapDescriptor(fd, file, touched);
  } finally {
    // A mapping needs no descriptor.
    closeSync(fd);
  }
}

function mapDescriptor(fd: number, file: string, touched: readonly Section[]): MappedRegion {
  try {
    const { buffer, close } = nativeAddon().mapFile(
      fd,
      touched.flatMap(({ at, bytes }) => [at, bytes]),
    );
    return { buffer, close };
  } catch (error) {
    throw stateError(error, file, "map");
  }
}

function openFile(file: string, flags: number, operation: string): number {
  try {
    return openSync(file, flags | constants.O_NOFOLLOW, 0o600);
  } catch (error) {
    throw stateError(error, file, operation);
  }
}

/** Another process, or another mapper of this one, has the lock. */
function inUseError(file: string, fd: number): AlreadyRunningError {
  const word = Buffer.alloc(4);
  const bytes = readSync(fd, word, 0, 4, OWNER_PID_AT);
  const pid = bytes === 4 ? word.readInt32LE() : 0;
  const owner = pid > 0 ? `process ${pid}` : "a process that is starting";
  return new AlreadyRunningError(
    `state file ${file} is in use by ${owner}; stop that gateway or choose another flows.stateFile`,
  );
}

function noRoomError(file: string, bytes: number, bytesAtPresent: number): StateError {
  const status = statfsSync(file);
  const free = status.bavail * status.bsize;
  return new StateError(
    `state file ${file}: no room: needs ${bytes} bytes (it has ${bytesAtPresent}), ${free} bytes ` +
      `are free on ${mountOf(file)}; lower flows.capacity, enlarge the mount, or choose another flows.stateFile`,
  );
}

/** Mount point of a file that exists: the longest one that its real path starts with. */
function mountOf(file: string): string {
  const folder = path.resolve(path.dirname(file));
  let best = "/";
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    // proc(5): ID PARENT MAJOR:MINOR ROOT MOUNTPOINT …, spaces as octal escapes.
    const mount = line
      .split(" ")[4]
      ?.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
    if (mount === undefined || mount.length < best.length) continue;
    if (folder === mount || folder.startsWith(mount.endsWith("/") ? mount : `${mount}/`))
      best = mount;
  }
  return best;
}

/** What to do about each errno that opening a file gives. */
const ADVICE: Readonly<Record<string, string>> = {
  ENOENT: "make its folder first",
  EACCES: "run as root, or choose another flows.stateFile",
  EPERM: "run as root, or choose another flows.stateFile",
  EROFS: "the file system is read-only; choose another flows.stateFile",
  EISDIR: "it is a folder; choose another flows.stateFile",
  ELOOP: "it is a symbolic link, which is not followed; name the file itself",
  ENOTDIR: "a part of the path is no folder; choose another flows.stateFile",
  ENOMEM: "free some memory, or lower flows.capacity",
  EOPNOTSUPP: "the file system cannot allocate files; use tmpfs",
};

function stateError(error: unknown, file: string, operation: string): unknown {
  if (error instanceof StateError || error instanceof AlreadyRunningError) return error;
  const code = isNativeFailure(error)
    ? errnoName(error.errno)
    : error instanceof Error && "code" in error
      ? String(error.code)
      : undefined;
  if (code === undefined) return error;
  const advice = ADVICE[code] ?? "check the file and its folder";
  return new StateError(`state file ${file}: cannot ${operation} (${code}): ${advice}`, {
    cause: error,
  });
}

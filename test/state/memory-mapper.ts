import { AlreadyRunningError, StateError } from "../../src/base/errors.ts";
import type { MappedRegion, RegionFile, RegionMapper } from "../../src/state/mapper.ts";

interface Inode {
  buffer: ArrayBuffer;
  locked: boolean;
}

/** A RegionMapper over buffers: paths, locks, renames; and what a test wants to go wrong. */
export interface MemoryMapper extends RegionMapper {
  /** Contents by path. */
  readonly files: Map<string, Inode>;
  /** Descriptors and mappings that were not given back. */
  held(): number;
  onTmpfs: boolean;
  /** Bytes that all files together may have. */
  room: number;
  /** Called before each operation; may throw, as a process that dies there would. */
  before: (operation: "open" | "allocate" | "map" | "rename" | "close", path: string) => void;
  /** What the kernel does when the owner dies: locks go. */
  kill(): void;
}

export function createMemoryMapper(): MemoryMapper {
  const files = new Map<string, Inode>();
  let descriptors = 0;
  let mappings = 0;

  function map(inode: Inode): MappedRegion {
    mappings++;
    let isMapped = true;
    return {
      buffer: inode.buffer,
      close() {
        if (isMapped) mappings--;
        isMapped = false;
      },
    };
  }

  function open(path: string): RegionFile {
    mapper.before("open", path);
    const inode = files.get(path) ?? { buffer: new ArrayBuffer(0), locked: false };
    if (inode.locked) throw new AlreadyRunningError(`state file ${path} is in use`);
    files.set(path, inode);
    inode.locked = true;
    descriptors++;
    let current = path;
    let isOpen = true;
    return {
      bytesAtOpen: inode.buffer.byteLength,
      onTmpfs: mapper.onTmpfs,
      allocate(bytes) {
        mapper.before("allocate", current);
        if (inode.buffer.byteLength === bytes) return;
        const others = [...files.values()].filter((file) => file !== inode);
        const taken = others.reduce((sum, file) => sum + file.buffer.byteLength, 0);
        if (taken + bytes > mapper.room) throw new StateError(`no room: needs ${bytes} bytes`);
        const next = new Uint8Array(bytes);
        next.set(new Uint8Array(inode.buffer).subarray(0, bytes));
        inode.buffer = next.buffer;
      },
      map() {
        mapper.before("map", current);
        return map(inode);
      },
      rename(newPath) {
        mapper.before("rename", current);
        files.delete(current);
        files.set(newPath, inode);
        current = newPath;
      },
      close() {
        mapper.before("close", current);
        if (!isOpen) return;
        isOpen = false;
        inode.locked = false;
        descriptors--;
      },
    };
  }

  const mapper: MemoryMapper = {
    files,
    held: () => descriptors + mappings,
    onTmpfs: true,
    room: 2 ** 40,
    before: () => undefined,
    open,
    attach(path) {
      const inode = files.get(path);
      if (inode === undefined) throw new StateError(`state file ${path}: no such file`);
      return map(inode);
    },
    kill() {
      for (const inode of files.values()) inode.locked = false;
      descriptors = 0;
      mappings = 0;
    },
  };
  return mapper;
}

import type { Section } from "./layout.ts";

/**
 * What the state needs from the operating system; `device/region.ts` has the real one, tests have
 * one in memory. It is an interface here so that `state` depends on nothing but `base`.
 */
export interface RegionMapper {
  /**
   * Open the file, made with mode 0600 when it is not there, and take its lock without waiting.
   *
   * @throws AlreadyRunningError when another process holds the lock (names its process id)
   * @throws StateError when it cannot be opened: path, errno, what to do
   */
  open(path: string): RegionFile;
  /**
   * Map a file that another isolate of this process has opened and allocated.
   *
   * @param touched - parts of it whose pages are mapped at once, so that no store faults later
   * @throws StateError
   */
  attach(path: string, touched: readonly Section[]): MappedRegion;
}

export interface MappedRegion {
  readonly buffer: ArrayBuffer;
  /** Unmap; views have length 0 afterwards. Closing twice is fine. */
  close(): void;
}

export interface RegionFile {
  /** Size when it was opened; 0 for a new file. */
  readonly bytesAtOpen: number;
  /** statfs says tmpfs or ramfs. */
  readonly onTmpfs: boolean;
  /**
   * Give the file exactly this size with every page allocated (fallocate); new bytes are zero.
   *
   * @throws StateError naming bytes needed, bytes free and the mount when there is no room
   */
  allocate(bytes: number): void;
  /**
   * Map the whole file (MAP_SHARED). Call after allocate: the pages are there, and are mapped one by
   * one as they are looked at, since most of them are the workers' alone.
   */
  map(): MappedRegion;
  /** Move the file aside; this handle goes on with it, and the path is free. */
  rename(newPath: string): void;
  /** Release lock and descriptor; mappings stay until their own close. */
  close(): void;
}

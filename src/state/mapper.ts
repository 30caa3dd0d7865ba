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
   * @throws StateError
   */
  attach(path: string): MappedRegion;
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
  /** Map the whole file, pages touched (MAP_SHARED, MAP_POPULATE). Call after allocate. */
  map(): MappedRegion;
  /** Move the file aside; this handle goes on with it, and the path is free. */
  rename(newPath: string): void;
  /** Release lock and descriptor; mappings stay until their own close. */
  close(): void;
}

/** Where a command prints, so that tests can look at it. */
export interface CliIo {
  out(text: string): void;
  err(text: string): void;
  /** A terminal is cleared between two screens of `-w`; other outputs get an empty line. */
  readonly isTerminal: boolean;
  /** Aborted when the user has seen enough (SIGINT, SIGTERM). Asked for once a watch. */
  interrupted(): AbortSignal;
}

/** Standard output and error of this process. */
export function processIo(): CliIo {
  // `headgate get flows | head` closes the pipe early: that is a normal end.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
  return {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    isTerminal: process.stdout.isTTY === true,
    interrupted: () => {
      const controller = new AbortController();
      for (const signal of ["SIGINT", "SIGTERM"] as const) {
        process.once(signal, () => controller.abort());
      }
      return controller.signal;
    },
  };
}

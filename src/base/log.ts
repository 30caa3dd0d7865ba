import { pino } from "pino";

/**
 * The log of the control plane: JSON lines on standard error, one per change of state and never one
 * per packet. Every line has `time` (ISO 8601, UTC), `level` (text) and `event` (a stable name in
 * snake_case); the other fields belong to the event. Lines are written synchronously, so that the
 * last ones before an exit are not lost.
 */

export type LogLevel = "trace" | "debug" | "info" | "warn" | "error";

export type LogFields = Readonly<Record<string, unknown>>;

export interface Log {
  trace(event: string, fields?: LogFields): void;
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
  /** Takes effect with the next line. */
  setLevel(level: LogLevel): void;
}

/** Where lines go: one call a line, which ends with a line feed. */
export interface LogDestination {
  write(line: string): void;
}

/**
 * Make a log.
 *
 * @param level - lines below it are not written
 * @param destination - standard error when left out
 */
export function createLog(level: LogLevel, destination?: LogDestination): Log {
  const logger = pino(
    {
      level,
      // Process id and host name are the supervisor's to add.
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination ?? standardError(),
  );
  return {
    trace: (event, fields) => {
      // Some are called a thousand times a second, and nearly always for nothing.
      if (logger.isLevelEnabled("trace")) logger.trace({ event, ...fields });
    },
    debug: (event, fields) => logger.debug({ event, ...fields }),
    info: (event, fields) => logger.info({ event, ...fields }),
    warn: (event, fields) => logger.warn({ event, ...fields }),
    error: (event, fields) => logger.error({ event, ...fields }),
    setLevel: (next) => {
      logger.level = next;
    },
  };
}

function standardError(): LogDestination {
  const destination = pino.destination({ dest: 2, sync: true });
  // A reader of the log that goes away must not take the gateway with it.
  destination.on("error", () => {});
  return destination;
}

/** Text of an error for a log field: its message, or what was thrown. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

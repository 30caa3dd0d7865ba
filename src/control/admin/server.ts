import { chmodSync, chownSync, mkdirSync, readFileSync, unlinkSync } from "node:fs";
import { connect, type Server } from "node:net";
import path from "node:path";
import { createAdaptorServer } from "@hono/node-server";
import { AlreadyRunningError, HostError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { startReaper } from "./reaper.ts";

/** Answers one request. */
export type Handler = (request: Request) => Response | Promise<Response>;

/** A listening server whose answers may change: what comes before the gateway stands is 503. */
export interface AdminServer {
  setHandler(handler: Handler): void;
  /** Stop listening and cut open connections; a unix socket is removed. */
  close(): Promise<void>;
}

/** The process answers at most this many requests at once, so that no client uses up its files. */
const CONNECTIONS_MAX = 256;

/**
 * Take the admin socket: from then on no second gateway starts with this path. A socket that a dead
 * process left behind is replaced.
 *
 * @param socketPath - made with mode 0600, its folder with 0755 when it is not there
 * @param owner - who it belongs to, and this process soon: another process then removes it
 * @throws AlreadyRunningError when a process answers on it
 * @throws HostError when it cannot be made
 */
export async function claimAdminSocket(
  socketPath: string,
  owner?: { readonly uid: number; readonly gid: number; readonly log: Log },
): Promise<AdminServer> {
  if (await answers(socketPath)) {
    throw new AlreadyRunningError(
      `another gateway answers on ${socketPath}; stop it, or choose another admin.socket`,
    );
  }
  const { server, setHandler } = createServer();
  // Sockets get their mode at bind, from the umask; a chmod afterwards would leave a moment.
  const umask = process.umask(0o177);
  const listening = (() => {
    try {
      process.umask(0o022);
      mkdirSync(path.dirname(socketPath), { recursive: true });
      removeIfThere(socketPath);
      process.umask(0o177);
      return listen(server, { path: socketPath });
    } catch (error) {
      throw cannotListen(socketPath, error);
    } finally {
      process.umask(umask);
    }
  })();
  await listening.catch((error: unknown) => {
    throw isCode(error, "EADDRINUSE")
      ? new AlreadyRunningError(`another gateway has just taken ${socketPath}`)
      : cannotListen(socketPath, error);
  });
  chmodSync(socketPath, 0o600);
  if (owner !== undefined) chownSync(socketPath, owner.uid, owner.gid);
  const reaper = owner === undefined ? null : startReaper(socketPath, owner.log);
  return {
    setHandler,
    close: async () => {
      await closeServer(server);
      if (reaper === null) removeIfThere(socketPath);
      else await reaper.finish();
    },
  };
}

/**
 * Serve the read-only API on TCP.
 *
 * @throws HostError when the address cannot be had
 */
export async function serveTcp(
  address: string,
  port: number,
  handler: Handler,
): Promise<AdminServer> {
  const { server, setHandler } = createServer();
  setHandler(handler);
  try {
    await listen(server, { host: address, port });
  } catch (error) {
    throw cannotListen(`${address}:${port}`, error);
  }
  return { setHandler, close: () => closeServer(server) };
}

/**
 * Read the token of the TCP address.
 *
 * @throws HostError when it cannot be read or is shorter than 16 characters
 */
export function readToken(tokenFile: string): string {
  let token: string;
  try {
    token = readFileSync(tokenFile, "utf8").trim();
  } catch (error) {
    throw new HostError(`cannot read admin.tokenFile ${tokenFile}: ${codeOf(error)}`, {
      cause: error,
    });
  }
  if (token.length < 16) {
    throw new HostError(`admin.tokenFile ${tokenFile}: expected at least 16 characters`);
  }
  return token;
}

/**
 * Ask whether a process listens on a unix socket.
 *
 * @returns false when there is none, or only the file of a dead one
 */
export function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path: socketPath });
    const settle = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.once("connect", () => settle(true));
    // A full queue of a busy process (EAGAIN) is an answer too.
    socket.once("error", (error) => settle(isCode(error, "EAGAIN")));
  });
}

/** Remove a file if it is there. */
export function removeIfThere(file: string): boolean {
  try {
    unlinkSync(file);
    return true;
  } catch (error) {
    if (isCode(error, "ENOENT")) return false;
    throw error;
  }
}

function createServer(): { server: Server; setHandler(handler: Handler): void } {
  let handler: Handler = () => Response.json({ error: "the gateway is starting" }, { status: 503 });
  const server = createAdaptorServer({
    fetch: (request) => handler(request),
    overrideGlobalObjects: false,
  }) as Server;
  server.maxConnections = CONNECTIONS_MAX;
  return {
    server,
    setHandler: (next) => {
      handler = next;
    },
  };
}

function listen(server: Server, where: { path: string } | { host: string; port: number }) {
  return new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(where, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    if ("closeAllConnections" in server && typeof server.closeAllConnections === "function") {
      server.closeAllConnections();
    }
  });
}

function cannotListen(where: string, error: unknown): HostError {
  return new HostError(`cannot listen on ${where}: ${codeOf(error)}`, { cause: error });
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}

function codeOf(error: unknown): string {
  if (error instanceof Error && "code" in error) return String(error.code);
  return error instanceof Error ? error.message : String(error);
}

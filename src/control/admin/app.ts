import { createHash, timingSafeEqual } from "node:crypto";
import { isIP } from "node:net";
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { z } from "zod";
import { parsePrefix } from "../../base/address.ts";
import type { AdminError, BackendAction, DrainRequest } from "../../base/admin-types.ts";
import { AssertionError } from "../../base/assert.ts";
import { HeadgateError } from "../../base/errors.ts";
import type { FlowQuery, GatewayView } from "./gateway-view.ts";

/** The largest timer that Node takes, and more than anyone waits: 24 days. */
const DURATION_MS_MAX = 2 ** 31 - 1;
const FLOWS_LISTED_DEFAULT = 100;
const FLOWS_LISTED_MAX = 100_000;
const BODY_BYTES_MAX = 64 * 1024;
/** The content type of the Prometheus text format, version 0.0.4. */
const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

const durationMs = z.int().min(0).max(DURATION_MS_MAX);
const target = z.string().min(3).max(300).includes("/");
const backendActionSchema = z.discriminatedUnion("action", [
  z.strictObject({
    action: z.enum(["drain", "disable"]),
    target,
    deadlineMs: durationMs.optional(),
  }),
  z.strictObject({ action: z.enum(["enable", "reset"]), target }),
  z.strictObject({ action: z.literal("weight"), target, weight: z.int().min(0).max(65535) }),
]);
const drainSchema = z.strictObject({ timeoutMs: durationMs });
const flowQuerySchema = z.object({
  limit: z.coerce.number().int().min(0).max(FLOWS_LISTED_MAX).default(FLOWS_LISTED_DEFAULT),
  service: z.string().optional(),
  backend: z.string().optional(),
  client: z.string().optional(),
});

export interface AdminAppOptions {
  /** "all": the unix socket. "read": TCP, where only GET is there. */
  readonly access: "all" | "read";
  /** With a token every request has to carry it (`Authorization: Bearer …`). */
  readonly token: string | null;
  /** Told of an error that is no operating error, before the answer 500. */
  readonly onDefect: (error: Error) => void;
}

/**
 * The admin API over HTTP, in the words of base/admin-types.ts.
 *
 * @param view - what it shows; asked anew for every request
 */
export function createAdminApp(view: GatewayView, options: AdminAppOptions): Hono {
  const app = new Hono();
  if (options.access === "read") app.use(refuseForeignHosts);
  if (options.token !== null) app.use(requireToken(options.token));
  addReadRoutes(app, view);
  if (options.access === "all") {
    app.use(
      bodyLimit({ maxSize: BODY_BYTES_MAX, onError: (c) => fail(c, 400, "the body is too large") }),
    );
    addWriteRoutes(app, view);
  }
  app.notFound((c) =>
    options.access === "read" && c.req.method !== "GET" && c.req.method !== "HEAD"
      ? fail(c, 405, "this address is read-only; use the admin socket")
      : fail(c, 404, `there is no ${c.req.method} ${c.req.path}`),
  );
  app.onError((error, c) => {
    if (error instanceof HeadgateError) return fail(c, statusOf(error), error.message);
    // A broken invariant is not an answer: it stops the process loudly, as everywhere.
    if (error instanceof AssertionError) {
      queueMicrotask(() => {
        throw error;
      });
    }
    options.onDefect(error);
    return fail(c, 500, error.message);
  });
  return app;
}

function addReadRoutes(app: Hono, view: GatewayView): void {
  app.get("/livez", (c) => (view.isLive() ? c.text("ok\n") : c.text("the worker hangs\n", 503)));
  app.get("/readyz", (c) => (view.isReady() ? c.text("ok\n") : c.text("not ready\n", 503)));
  app.get("/metrics", async (c) =>
    c.body(await view.metrics(), 200, { "content-type": METRICS_TYPE }),
  );
  app.get("/api/v1/status", (c) => c.json(view.status()));
  app.get("/api/v1/services", (c) => c.json(view.services()));
  app.get("/api/v1/backends", (c) => c.json(view.backends(c.req.query("service") || null)));
  app.get("/api/v1/drops", (c) => c.json(view.drops()));
  app.get("/api/v1/workers", (c) => c.json(view.workers()));
  app.get("/api/v1/config", (c) => c.json(view.configuration()));
  app.get("/api/v1/flows", (c) => {
    const query = parseFlowQuery(c.req.query());
    return typeof query === "string" ? fail(c, 400, query) : c.json(view.flows(query));
  });
  app.get("/api/v1/affinity", (c) => {
    const query = parseFlowQuery(c.req.query());
    return typeof query === "string" ? fail(c, 400, query) : c.json(view.affinity(query));
  });
}

function addWriteRoutes(app: Hono, view: GatewayView): void {
  app.post("/api/v1/backends/action", async (c) => {
    const body = await readBody(c, backendActionSchema);
    if (!body.ok) return fail(c, 400, body.error);
    return c.json(await view.backendAction(body.value as BackendAction));
  });
  app.post("/api/v1/reload", async (c) => {
    const dryRun = c.req.query("dryRun");
    if (dryRun !== undefined && !["0", "1", "false", "true"].includes(dryRun)) {
      return fail(c, 400, `dryRun: expected 1 or 0, got "${dryRun}"`);
    }
    const report = await view.reload(dryRun === "1" || dryRun === "true");
    return c.json(report, report.ok ? 200 : 409);
  });
  app.post("/api/v1/drain", async (c) => {
    const body = await readBody(c, drainSchema);
    if (!body.ok) return fail(c, 400, body.error);
    return c.json(view.drain(body.value as DrainRequest));
  });
}

type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: string };

async function readBody<T>(c: Context, schema: z.ZodType<T>): Promise<Parsed<T>> {
  let value: unknown;
  try {
    value = await c.req.json();
  } catch {
    return { ok: false, error: "expected a JSON object as the body" };
  }
  const parsed = schema.safeParse(value);
  return parsed.success
    ? { ok: true, value: parsed.data }
    : { ok: false, error: describeIssues(parsed.error) };
}

function describeIssues(error: z.ZodError): string {
  return error.issues
    .map((issue) =>
      issue.path.length === 0 ? issue.message : `${issue.path.join(".")}: ${issue.message}`,
    )
    .join("; ");
}

/** @returns the query, or what is wrong with it */
function parseFlowQuery(query: Record<string, string>): FlowQuery | string {
  const parsed = flowQuerySchema.safeParse(query);
  if (!parsed.success) return describeIssues(parsed.error);
  const { limit, service, backend, client } = parsed.data;
  let prefix: FlowQuery["client"] = null;
  if (client) {
    prefix = parsePrefix(client);
    if (prefix === null) return `client: expected an address or a prefix, got "${client}"`;
  }
  return { limit, service: service || null, backend: backend || null, client: prefix };
}

function fail(
  c: Context,
  status: 400 | 401 | 403 | 404 | 405 | 409 | 500,
  error: string,
): Response {
  return c.json({ error } satisfies AdminError, status);
}

function statusOf(error: HeadgateError): 400 | 404 | 409 | 500 {
  switch (error.code) {
    case "HEADGATE_NOT_FOUND":
      return 404;
    case "HEADGATE_USAGE":
      return 400;
    case "HEADGATE_CONFIG":
      return 409;
    default:
      return 500;
  }
}

/**
 * A page in a browser can send requests to a loopback address under a name of its own (DNS
 * rebinding); its Host header is then that name, never an address.
 */
async function refuseForeignHosts(
  c: Context,
  next: () => Promise<void>,
): Promise<Response | undefined> {
  const host = (c.req.header("host") ?? "").replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
  if (host !== "" && host !== "localhost" && isIP(host) === 0) {
    return fail(c, 403, `expected an address as the host, got "${host}"`);
  }
  await next();
  return undefined;
}

function requireToken(token: string) {
  const wanted = digest(`Bearer ${token}`);
  return async (c: Context, next: () => Promise<void>): Promise<Response | undefined> => {
    // Digests have one length, so that comparing them takes the same time whatever was sent.
    if (!timingSafeEqual(digest(c.req.header("authorization") ?? ""), wanted)) {
      c.header("www-authenticate", "Bearer");
      return fail(c, 401, "a token is needed: Authorization: Bearer TOKEN");
    }
    await next();
    return undefined;
  };
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { ScriptStep, TlsQuestion } from "../service/health-definition.ts";
import {
  type CheckEndpoint,
  type CheckResult,
  type Decide,
  type Running,
  runCheck,
} from "./check.ts";
import { hexEnd, matchEnd, sampleOf } from "./patterns.ts";
import { certificateExtras, connectTls, expiryText } from "./tls.ts";

/** What to say and what to hear, in turn; over TCP, or TLS. */
export interface ScriptQuestion {
  readonly steps: readonly ScriptStep[];
  readonly tls: TlsQuestion | null;
}

/** What may come between two expectations: more is no answer to a health check. */
const HEARD_BYTES_MAX = 64 * 1024;

/**
 * Run the steps of a script (HAProxy's tcp-check): `send` sends, `expect` waits until what has come
 * holds what is expected, and goes on behind it.
 *
 * @returns `N steps`, or at which step it stopped; fulfilled when the connection is closed, never
 *   rejected
 */
export function checkScript(
  endpoint: CheckEndpoint,
  question: ScriptQuestion,
  signal: AbortSignal,
): Promise<CheckResult> {
  const { tls } = question;
  if (tls === null) {
    return runCheck(endpoint, signal, (socket, decide) => {
      const script = play(question.steps, socket, decide);
      socket.once("connect", script.begin);
      return script;
    });
  }
  return runCheck(
    endpoint,
    signal,
    (socket, decide) => {
      const secure = socket as TLSSocket;
      const script = play(question.steps, socket, (ok, reason) => {
        const extras = certificateExtras(secure);
        decide(ok, ok ? `${reason}${expiryText(extras, tls, Date.now())}` : reason, extras);
      });
      secure.once("secureConnect", script.begin);
      return script;
    },
    () => connectTls(endpoint, tls, []),
  );
}

interface Script extends Pick<Running, "atTimeout"> {
  /** The connection stands. */
  readonly begin: () => void;
}

function play(steps: readonly ScriptStep[], socket: Socket, decide: Decide): Script {
  let next = 0;
  let hasBegun = false;
  let heard: Buffer = Buffer.alloc(0);

  const stop = (ok: boolean, reason: string): void => {
    decide(ok, reason);
    socket.destroy();
  };
  const place = (): string => `at step ${next + 1} (${describe(steps[next])})`;

  /** Steps that can be done now. */
  function advance(): void {
    for (let step = steps[next]; step !== undefined; step = steps[++next]) {
      if (step.kind === "send" || step.kind === "sendHex") {
        socket.write(Buffer.from(step.text, step.kind === "send" ? "utf8" : "hex"));
        continue;
      }
      const end = endOf(step, heard);
      if (end === null) stop(false, `the expression takes too long ${place()}`);
      if (end === null || end < 0) return;
      heard = heard.subarray(end);
    }
    stop(true, steps.length === 1 ? "1 step" : `${steps.length} steps`);
  }

  socket.on("data", (part: Buffer) => {
    heard = Buffer.concat([heard, part]);
    if (heard.length <= HEARD_BYTES_MAX) advance();
    else stop(false, `more than ${HEARD_BYTES_MAX} bytes ${place()}`);
  });
  socket.once("end", () => {
    const got = heard.length === 0 ? "" : `, got ${sampleOf(heard)}`;
    stop(false, `closed by the backend ${place()}${got}`);
  });
  return {
    begin() {
      hasBegun = true;
      advance();
    },
    atTimeout(say, text) {
      const got = heard.length === 0 ? "" : `, got ${sampleOf(heard)}`;
      if (hasBegun) say(false, `${text} ${place()}${got}`);
    },
  };
}

/** @returns where what is expected ends in `heard`, in bytes; -1: not there; null: took too long */
function endOf(step: ScriptStep, heard: Buffer): number | null {
  if (step.kind === "expectHex") return hexEnd(step.text, heard);
  if (step.kind === "expectRegex") {
    // One character a byte, so that places are the same.
    return matchEnd(step.text, heard.toString("latin1"));
  }
  const wanted = Buffer.from(step.text);
  const at = heard.indexOf(wanted);
  return at < 0 ? -1 : at + wanted.length;
}

function describe(step: ScriptStep | undefined): string {
  if (step === undefined) return "the end";
  return `${step.kind} ${step.kind.endsWith("Hex") ? step.text : JSON.stringify(step.text)}`;
}

import { accessSync, constants, readFileSync } from "node:fs";
import { createSecureContext } from "node:tls";
import type { ConfigProblem } from "../../base/errors.ts";
import { resolveUser } from "../../host/users.ts";
import type { GatewayDefinition } from "../../service/definition.ts";
import type { HealthDefinition } from "../../service/health-definition.ts";
import { problemOf } from "./load.ts";

/**
 * What health checks need of this host: programs that can be run, users that there are, files of
 * certificate authorities that are some.
 *
 * @returns every problem, in the file's order
 */
export function healthFileProblems(definition: GatewayDefinition): ConfigProblem[] {
  return definition.services.flatMap(({ health }, index) =>
    health === null
      ? []
      : findings(health).map(({ key, message }) =>
          problemOf(definition, ["services", index, "health", ...key], message),
        ),
  );
}

interface Finding {
  readonly key: readonly (string | number)[];
  readonly message: string;
}

function findings(health: HealthDefinition): Finding[] {
  const found: Finding[] = [];
  const attempt = (key: Finding["key"], expected: string, run: () => void): void => {
    try {
      run();
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      const what = code !== undefined && /^E[A-Z0-9]+$/.test(code) ? code : message;
      found.push({ key, message: `expected ${expected}, got ${what}` });
    }
  };
  if (health.type === "exec") {
    const [program = ""] = health.command;
    attempt(["command", 0], `a program that can be run (${program})`, () =>
      accessSync(program, constants.X_OK),
    );
    const { user } = health;
    if (user !== null) attempt(["user"], "a user of this host", () => resolveUser(user));
  }
  const caFile = "tls" in health ? (health.tls?.caFile ?? null) : null;
  if (caFile !== null) {
    attempt(["caFile"], `a PEM file of certificates (${caFile})`, () => {
      createSecureContext({ ca: readFileSync(caFile) });
    });
  }
  return found;
}

import { openEcho } from "../device/echo.ts";
import { withoutAmbient } from "../device/privileges-native.ts";
import type { CheckTools } from "../health/checkers.ts";
import { resolveUser } from "../host/users.ts";

/** What checks need of the host, opened while this process may: before it becomes `user`. */
export interface OpenTools extends CheckTools {
  close(): void;
}

export function openCheckTools(): OpenTools {
  const echo = openEcho();
  return {
    echo,
    userOf(name) {
      const { uid, gid } = resolveUser(name);
      return uid === process.getuid?.() ? null : { uid, gid };
    },
    spawnPlainly: withoutAmbient,
    close: () => echo.close(),
  };
}

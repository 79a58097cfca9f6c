"""The child process of ``reward.expression``: one JSON line in, one out. Run as a file, imports nothing of ours."""

import json
import resource
import sys

MEMORY = 2 << 30


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from math_verify import parse, verify

    replies = sys.stdout
    sys.stdout = sys.stderr  # a library that prints must not disturb the replies
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            # The parent holds the clock, so both of math-verify's signal timers are off.
            gold = parse(f"${request['gold']}$", parsing_timeout=None, raise_on_error=False)
            answer = parse(f"${request['answer']}$", parsing_timeout=None, raise_on_error=False)
            if not gold or not answer:
                verdict = "unreadable"
            else:
                verdict = "equal" if verify(gold, answer, timeout_seconds=None, raise_on_error=False) else "different"
        except (Exception, RecursionError) as error:  # hostile input: any failure to read it is a verdict
            verdict = f"unreadable ({type(error).__name__})"
        replies.write(json.dumps({"verdict": verdict}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()

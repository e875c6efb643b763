"""Every check against replies that fulfil it, and replies that do not."""

import pytest

from pemath.lab.checks import CHECKS, Check

# The instruction's beginning: replies that pass, replies that fail.
CASES: dict[str, tuple[list[str], list[str]]] = {
    "What is the capital of France?": (
        ["Paris", "The capital of France is **Paris**."],
        ["London.", "Parisian food is good.", "parish"],
    ),
    "What is 2 plus 3?": (["5", "2 + 3 = 5", "Five."], ["2 + 3 = 6", "55", "2.53"]),
    "What is the opposite of hot?": (["Cold.", "It is cold"], ["Warm", "coldness"]),
    "What is the plural of mouse?": (['"Mice"', "The plural is mice."], ["mouses", "micey"]),
    "Which day comes after Monday?": (["Tuesday", "It's Tuesday!"], ["Sunday.", "Monday"]),
    "What is the first month of the year?": (["January."], ["June"]),
    "How do you say thank you in French?": (['You say "merci".', "Merci!"], ["Bonjour", "Danke"]),
    "Which animal barks?": (["A dog.", "Dogs bark."], ["The cat", "hotdog"]),
    "Which is bigger, an elephant or a mouse?": (
        ["An elephant.", "The elephant is bigger than the mouse."],
        ["The mouse.", "A mouse is smaller than an elephant", "Both."],
    ),
    "What colour do you get": (["Green", "You get green."], ["A shade of blue.", "greenish"]),
    "Answer with one word only: what colour": (
        ["Green", "green.", '"Green"'],
        ["It is green.", "Blue", "Green grass"],
    ),
    "Answer with a number only": (
        ["7", "Seven.", "7 days"],
        ["A week has 7 days.", "5", "17"],
    ),
    "Begin your answer with yes or no": (
        ["Yes", "No, it is not.", "**Yes**, it is."],
        ["It is.", "Yesterday it was.", "Now"],
    ),
    "Name an animal that begins with the letter B": (
        ["Bear", "bee.", "**Bat**"],
        ["A bear", "Cat", "The bear is one."],
    ),
    "Describe a tree": (
        ["Tall, green and old.", "one two three four five six seven eight nine ten"],
        ["one two three four five six seven eight nine ten eleven"],
    ),
    "Write a sentence of exactly five words": (
        ["The dog likes the garden.", "We don't know them well!"],
        ["The dog likes it.", "The dog likes the garden path.", "Yes. The dog likes it."],
    ),
    "Write one sentence about the sea": (
        ["The sea is blue.", "Oceans are wide"],
        ["The sea is blue. It is deep.", "The seat is blue.", "Sea."],
    ),
    "Write two sentences about dogs": (
        ["Dogs bark. They run.", "A dog barks! It ran away and"],
        ["Dogs bark.", "Dogs bark. They run. They sleep.", "Cats purr. They sleep."],
    ),
    "Write a question about the weather": (
        ["What is the weather like?", '"Will it rain?"'],
        ["It rains.", "?", "Will it rain? I think so."],
    ),
    "Write a short greeting": (["Hello there!", '"Hi!"'], ["Hello.", "!", "Hello! Good day."]),
    "Write a title for a story": (
        ["The Lazy Dog", '"A Dog in Winter"'],
        ["The Lazy Dog.", '"The Lazy Dog."', " ".join(["dog"] * 16)],
    ),
    "Write a short sentence without the letter z": (
        ["The sun is warm."],
        ["The zoo is big.", "A ZEBRA is here.", "Sun", "..."],
    ),
    "Say good morning": (
        ["good morning", "good morning!"],
        ["Good morning", "GOOD MORNING", "good night"],
    ),
    "Write the word hello": (
        ["HELLO", "**HELLO**!", "The word is HELLO."],
        ["Hello", "hello", "OTHELLO", "HELLOS"],
    ),
    "Write a short sentence about rain in capital": (
        ["IT RAINS TODAY.", "RAIN!\nRAIN!"],
        ["It rains.", "RAIN", "IT RAINS today"],
    ),
    "Name a city. Put": (
        ['"Paris"', "“New York”", '"Paris".', "'Rome'"],
        ["Paris", '"Paris" is a city', '"Paris', '""', '"'],
    ),
    "Write a sentence with the word garden": (
        ["The garden is green.", "Our gardens are wide."],
        ["The park is green.", "Garden", "The gardener works here."],
    ),
    "Write a sentence with the words cat and window": (
        ["The cat sits at the window.", "Cats like windows."],
        ["The cat sleeps.", "The window is open.", "A catalogue of windows"],
    ),
    "Use the word because": (
        ["I stay in because of the rain."],
        ["It rains.", "I stay in because it is cold."],
    ),
    "Begin a sentence with the word Today": (
        ["Today is Monday.", '"Today, we rest."'],
        ["It is warm today.", "Today.", "Todays are short days"],
    ),
    "Write a short farewell": (
        ["It was nice. Goodbye!", "goodbye"],
        ["Goodbye, my friend.", "Farewell."],
    ),
    "Write the word apple three times": (
        ["apple apple apple", "Apple, apple, apple.", "apple\napple\napple"],
        ["apple apple", "apple apple apple apple", "Here: apple apple apple", "apples apple apple"],
    ),
    "Name three animals": (
        ["cat, dog, bird", "Cat, dog and bird.", "a polar bear, a dog, and a cat"],
        ["cat, dog", "cat dog bird", "cat, dog, bird, fish", "cat, dog, a bird that sings well"],
    ),
    "Name two fruits": (
        ["Apple\nPear", "1. Apple\n2. Pear", "- apple\n\n- pear\n"],
        ["Apple, pear", "Apple\nPear\nPlum", "Apple\n---", "1.\n2."],
    ),
    "List three colours": (
        ["- red\n- blue\n- green", "-red\n-blue\n-green"],
        ["red\nblue\ngreen", "- red\n- blue", "Colours:\n- red\n- blue\n- green", "-\n-\n-"],
    ),
    "Count from 1 to 5": (
        ["1 2 3 4 5", "1, 2, 3, 4, 5.", "1\n2\n3\n4\n5"],
        ["1 2 3 4", "1 2 3 4 5 6", "5 4 3 2 1", "12345", "one two three four five"],
    ),
    "Sort these numbers": (
        ["1, 2, 3", "1 2 3.", "1 < 2 < 3"],
        ["3, 2, 1", "3, 1, 2 become 1, 2, 3", "123"],
    ),
    "Write the first five letters": (
        ["a, b, c, d, e", "A, B, C, D, E.", "A B C D E", "A-B-C-D-E"],
        ["abcde", "a, b, c, d", "a, b, c, d, e, f", "The letters are a, b, c, d, e"],
    ),
    "Write any date": (
        ["2024-05-17", "The date is 1999-12-31."],
        ["17.05.2024", "2024-13-01", "2024-00-10", "2024-1-1", "YYYY-MM-DD"],
    ),
    "Make up an e-mail address": (
        ["jane.doe@example.com", "It is a@b.org."],
        ["jane at example.com", "jane@example", "@example.com"],
    ),
}


def check(beginning: str) -> Check:
    [found] = [each for each in CHECKS if each.instruction.startswith(beginning)]
    return found


PASSING = [(start, reply) for start, (good, _) in CASES.items() for reply in good]
FAILING = [(start, reply) for start, (_, bad) in CASES.items() for reply in bad]


def test_every_check_has_its_cases() -> None:
    assert len(CHECKS) >= 30
    assert {check(start).instruction for start in CASES} == {each.instruction for each in CHECKS}
    assert len({each.instruction for each in CHECKS}) == len(CHECKS)
    assert all(good and bad for good, bad in CASES.values())
    assert all(len(each.instruction.split()) <= 16 for each in CHECKS)


@pytest.mark.parametrize(("beginning", "reply"), PASSING)
def test_a_reply_that_fulfils_it(beginning: str, reply: str) -> None:
    assert check(beginning).passes(reply)
    assert check(beginning).passes(f"  {reply}\n")


@pytest.mark.parametrize(("beginning", "reply"), FAILING)
def test_a_reply_that_does_not(beginning: str, reply: str) -> None:
    assert not check(beginning).passes(reply)


@pytest.mark.parametrize("each", CHECKS, ids=lambda each: each.instruction)
@pytest.mark.parametrize("reply", ["", "   \n", "...", '""', "-", "- - -", "\N{CAT FACE}", "\x00"])
def test_a_reply_without_words_fulfils_nothing(each: Check, reply: str) -> None:
    assert each.passes(reply) is False


@pytest.mark.parametrize("each", CHECKS, ids=lambda each: each.instruction)
@pytest.mark.parametrize(
    "reply", ["I'm sorry, but I cannot.", "I can't answer yes or no! Goodbye", "word " * 60]
)
def test_one_reply_for_everything_is_no_way_to_pass(each: Check, reply: str) -> None:
    assert not each.passes(reply)


@pytest.mark.parametrize("each", CHECKS, ids=lambda each: each.instruction)
def test_an_instruction_repeated_is_no_answer(each: Check) -> None:
    assert not each.passes(each.instruction)
    assert not each.passes(each.instruction + "\n\nYes, today.")

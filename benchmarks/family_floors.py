"""Training steps of the translation families written by hand: plain torch, no hooks, no copies, no layer too many.

Each function returns a step that updates the networks it was given and returns its losses: the generator's and the
discriminator's, as `family_steps.py` compares them with the SDK's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from haar import haar_distance
from torch import Tensor, nn
from torch.nn import functional as F

Losses = tuple[Tensor, Tensor]
Step = Callable[[], Losses]


def adam(networks: Sequence[nn.Module], rate: float, betas: tuple[float, float]) -> Callable[[Tensor], None]:
    """One step of Adam down the gradient of a loss."""
    optimizer = torch.optim.Adam([p for net in networks for p in net.parameters()], lr=rate, betas=betas, fused=True)

    def descend(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return descend


def resnet(net: nn.Module, x: Tensor, taps: Sequence[int], *, image: bool = True) -> tuple[Tensor | None, list[Tensor]]:
    """The image and the outputs of the layers `taps`; without the image, up to the last of them."""
    seen = []
    for index, layer in enumerate(net.model if image else net.model[: taps[-1] + 1]):
        x = layer(x)
        if index in taps:
            seen.append(x)
    return x if image else None, seen


def spade(
    net: nn.Module, labels: Tensor, taps: Sequence[str], *, image: bool = True
) -> tuple[Tensor | None, list[Tensor]]:
    """The image and the outputs of the blocks `taps`; without the image, up to the last of them."""
    coarse = [side // 2**net.sizes.doublings for side in labels.shape[2:]]
    x = net.fc(F.interpolate(labels, size=coarse, mode="nearest"))
    seen = []
    for name in net.sizes.names:
        x = getattr(net, name)(x, labels)
        if name in taps:
            seen.append(x)
            if not image and len(seen) == len(taps):
                return None, seen
        if name in net.sizes.doubled:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return net.conv_img(F.leaky_relu(x, 0.2)).tanh(), seen


def alignment(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Global kernel alignment over pairs of feature maps, as one would write it down; 0 for none."""
    total = torch.zeros(())
    for s, t in zip(ours, theirs, strict=True):
        x, y = (f.permute(0, 2, 3, 1).reshape(-1, f.shape[1]) for f in (s, t))
        total = total + (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    return total


def pix2pix(
    generator: nn.Module, critic: nn.Module, x: Tensor, y: Tensor, *, teacher: nn.Module | None, taps: Sequence[int]
) -> Step:
    """Hinge on pairs + 100 L1 to the truth, and alignment with a frozen teacher that stops at its last tap."""
    descend, descend_critic = (adam([net], 2e-4, (0.5, 0.999)) for net in (generator, critic))
    taps = taps if teacher is not None else ()

    def step() -> Losses:
        theirs: list[Tensor] = []
        if teacher is not None:
            with torch.no_grad():
                theirs = resnet(teacher, x, taps, image=False)[1]
        fake, ours = resnet(generator, x, taps)
        judged = F.relu(1 - critic(torch.cat([x, y], 1))).mean()
        judged = judged + F.relu(1 + critic(torch.cat([x, fake.detach()], 1))).mean()
        descend_critic(0.5 * judged)
        critic.requires_grad_(False)
        loss = 100 * (fake - y).abs().mean() - critic(torch.cat([x, fake], 1)).mean() - alignment(ours, theirs)
        critic.requires_grad_(True)
        descend(loss)
        return loss.detach(), judged.detach()

    return step


def one_direction(
    generator: nn.Module, critic: nn.Module, x: Tensor, y: Tensor, *, teacher: nn.Module, taps: Sequence[int]
) -> Step:
    """A CycleGAN's student: least squares + 10 L1 to the teacher's image + alignment; `y`: the other domain."""
    descend, descend_critic = (adam([net], 2e-4, (0.5, 0.999)) for net in (generator, critic))

    def step() -> Losses:
        with torch.no_grad():
            wanted, theirs = resnet(teacher, x, taps)
        fake, ours = resnet(generator, x, taps)
        judged = (critic(y) - 1).square().mean() + critic(fake.detach()).square().mean()
        descend_critic(0.5 * judged)
        critic.requires_grad_(False)
        loss = 10 * (fake - wanted).abs().mean() + (critic(fake) - 1).square().mean() - alignment(ours, theirs)
        critic.requires_grad_(True)
        descend(loss)
        return loss.detach(), judged.detach()

    return step


def cyclegan(generators: Sequence[nn.Module], critics: Sequence[nn.Module], a: Tensor, b: Tensor) -> Step:
    """Both directions: least squares + 10 L1 of both cycles + 5 L1 of both identities; a pool that is not full yet."""
    (there, back), (critic_b, critic_a) = generators, critics
    descend, descend_critics = adam(generators, 2e-4, (0.5, 0.999)), adam(critics, 2e-4, (0.5, 0.999))

    def step() -> Losses:
        fake_b, fake_a = there(a), back(b)
        for critic in critics:
            critic.requires_grad_(False)
        loss = (critic_b(fake_b) - 1).square().mean() + (critic_a(fake_a) - 1).square().mean()
        loss = loss + 10 * ((back(fake_b) - a).abs().mean() + (there(fake_a) - b).abs().mean())
        loss = loss + 5 * ((there(b) - b).abs().mean() + (back(a) - a).abs().mean())
        for critic in critics:
            critic.requires_grad_(True)
        descend(loss)
        judged = (critic_b(b) - 1).square().mean() + critic_b(fake_b.detach()).square().mean()
        judged = judged + (critic_a(a) - 1).square().mean() + critic_a(fake_a.detach()).square().mean()
        descend_critics(0.5 * judged)
        return loss.detach(), judged.detach()

    return step


def wavelet_cyclegan(
    students: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    critics: Sequence[nn.Module],
    a: Tensor,
    b: Tensor,
) -> Step:
    """Both directions of WKD: CycleGAN's losses + 0.4 of three levels of haar details, one teacher pass each way."""
    (there, back), (critic_b, critic_a) = students, critics
    descend, descend_critics = adam(students, 2e-4, (0.5, 0.999)), adam(critics, 2e-4, (0.5, 0.999))

    def step() -> Losses:
        with torch.no_grad():
            wanted_b, wanted_a = teachers[0](a), teachers[1](b)
        fake_b, fake_a = there(a), back(b)
        for critic in critics:
            critic.requires_grad_(False)
        loss = (critic_b(fake_b) - 1).square().mean() + (critic_a(fake_a) - 1).square().mean()
        loss = loss + 10 * ((back(fake_b) - a).abs().mean() + (there(fake_a) - b).abs().mean())
        loss = loss + 5 * ((there(b) - b).abs().mean() + (back(a) - a).abs().mean())
        loss = loss + 0.4 * (haar_distance(fake_b, wanted_b) + haar_distance(fake_a, wanted_a))
        for critic in critics:
            critic.requires_grad_(True)
        descend(loss)
        judged = (critic_b(b) - 1).square().mean() + critic_b(fake_b.detach()).square().mean()
        judged = judged + (critic_a(a) - 1).square().mean() + critic_a(fake_a.detach()).square().mean()
        descend_critics(0.5 * judged)
        return loss.detach(), judged.detach()

    return step


def gaugan(
    generator: nn.Module, critic: nn.Module, x: Tensor, y: Tensor, *, teacher: nn.Module | None, taps: Sequence[str]
) -> Step:
    """Multi-scale hinge + 10 feature matching, generator first, and alignment with a frozen teacher."""
    descend, descend_critic = adam([generator], 1e-4, (0.0, 0.9)), adam([critic], 4e-4, (0.0, 0.9))
    taps = taps if teacher is not None else ()

    def step() -> Losses:
        theirs: list[Tensor] = []
        if teacher is not None:
            with torch.no_grad():
                theirs = spade(teacher, x, taps, image=False)[1]
        fake, ours = spade(generator, x, taps)
        critic.requires_grad_(False)
        made = critic(torch.cat([x, fake], 1))
        critic.requires_grad_(True)
        critic.eval()
        with torch.no_grad():
            true = critic(torch.cat([x, y], 1))
        critic.train()
        loss = -sum(maps[-1].mean() for maps in made) / len(made) - alignment(ours, theirs)
        pairs = [pair for m, t in zip(made, true, strict=True) for pair in zip(m[:-1], t[:-1], strict=True)]
        loss = loss + 10 / len(made) * sum((m - t).abs().mean() for m, t in pairs)
        descend(loss)
        with torch.no_grad():
            fresh = spade(generator, x, ())[0]
        judged = torch.zeros(())
        for maps in critic(torch.cat([torch.cat([x, fresh], 1), torch.cat([x, y], 1)])):
            fakes, reals = maps[-1].chunk(2)
            judged = judged + F.relu(1 + fakes).mean() + F.relu(1 - reals).mean()
        judged = judged / len(made)
        descend_critic(judged)
        return loss.detach(), judged.detach()

    return step

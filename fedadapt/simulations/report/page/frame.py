"""What all pages have around them, a jinja2 template; a module, as Flower ships no templates."""

FRAME = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }} · fedadapt</title>
<style>
{{ css }}
{{ own_colours }}
</style>
</head>
<body>
<main>
<header>
<p>{{ folder }}</p>
<h1>{{ title }}</h1>
{% if line %}<p>{{ line }}</p>{% endif %}
{% if notice %}<p class="notice">{{ notice }}</p>{% endif %}
</header>

{% block content %}{% endblock %}

<footer>Written by fedadapt. Definitions: docs/evaluation.md. Adaptation and every choice use a client's train and adapt images only; test images are for these numbers.</footer>
</main>
<script type="application/json" id="data">{{ data }}</script>
<script>{{ library }}</script>
<script>{{ script }}</script>
</body>
</html>
"""

"""What an attacker can make of the statistics that clients send: PFA, section 5.4."""

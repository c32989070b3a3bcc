-- Remembers when each of KEYS was accepted (ARGV[1]) for ARGV[2] milliseconds; a repeat keeps its first time.

for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[2])
end
